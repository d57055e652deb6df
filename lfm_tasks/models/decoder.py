"""Where a decoder keeps its facts: one description for Llama-like and GPT-2-like models, found by structure, never by a name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.layers import layer_lists


@dataclass(frozen=True)
class Site:
    """The last matrix of one layer's MLP: ``m = W k`` (+ bias), W [d, d_k], acting on keys as columns."""

    layer: int
    name: str
    """Of the weight, in the model's state dict."""
    module: nn.Module
    transposed: bool
    """The weight is stored as [d_k, d] (GPT-2's Conv1D)."""

    @property
    def matrix(self) -> Tensor:
        """W [d, d_k], a view of the weight."""
        return self.module.weight.T if self.transposed else self.module.weight


class Decoder:
    """A decoder's layers and the site of each. The model is borrowed."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises :class:`IncompatibleModels` for a model without one list of layers that each end in an MLP of linear layers."""
        self.model = model
        self.prefix, self.layers = _layers(model)

    @cached_property
    def sites(self) -> list[Site]:
        return [self._site(place, layer) for place, layer in enumerate(self.layers)]

    def site(self, layer: int) -> Site:
        """Raises :class:`ConfigError` for a layer that the model does not have."""
        if not 0 <= layer < len(self.layers):
            raise ConfigError(f"layer {layer}: the model has the layers 0 to {len(self.layers) - 1}.")
        return self.sites[layer]

    def matrices(self, layer: int) -> list[Site]:
        """Every matrix of a layer's MLP, the site last."""
        last, inside = self.site(layer), dict(self.layers[layer].named_modules())
        start = f"{self.prefix}{layer}."
        parent = last.name.removeprefix(start).removesuffix(".weight").rpartition(".")[0]
        linear = [name for name, one in inside.items() if isinstance(one, (nn.Linear, Conv1D)) and name.rpartition(".")[0] == parent]
        found = [Site(layer, f"{start}{name}.weight", inside[name], isinstance(inside[name], Conv1D)) for name in linear]
        return [*(one for one in found if one.module is not last.module), last]

    def attention(self, layer: int) -> nn.Module:
        """What mixes the tokens in a layer: the child that has linear layers and not the site.

        Raises :class:`IncompatibleModels` where it is not one child.
        """
        site = self.site(layer).module
        found = [
            child
            for child in self.layers[layer].children()
            if any(isinstance(one, (nn.Linear, Conv1D)) for one in child.modules()) and all(one is not site for one in child.modules())
        ]
        if len(found) != 1:
            raise IncompatibleModels(f"Layer {layer} of {type(self.model).__name__} has no single attention beside its MLP.")
        return found[0]

    def _site(self, place: int, layer: nn.Module) -> Site:
        shape, linear = (self.model.config.hidden_size, _inner(self.model.config)), dict(layer.named_modules())
        found = [name for name, module in linear.items() if isinstance(module, (nn.Linear, Conv1D)) and _shape(module) == shape]
        if not found:
            raise IncompatibleModels(
                f"Layer {place} of {type(self.model).__name__} has no linear layer from {shape[1]} to {shape[0]} that ends its MLP. "
                "Edit a decoder with one dense MLP in each layer, as Llama or GPT-2."
            )
        name, module = found[-1], linear[found[-1]]
        return Site(place, f"{self.prefix}{place}.{name}.weight", module, isinstance(module, Conv1D))


def site_at(decoder: Decoder, layer: int, depth: float) -> Site:
    """The site of ``layer``; of -1 that of the layer at the share ``depth`` of the model's layers."""
    return decoder.site(round(depth * (len(decoder.layers) - 1)) if layer == -1 else layer)


def sites_from(decoder: Decoder, layer: int, span: int, depth: float) -> list[Site]:
    """``span`` sites, from that of :func:`site_at` on. Raises :class:`ConfigError` where they go past the last layer."""
    first = site_at(decoder, layer, depth).layer
    return [decoder.site(first + place) for place in range(span)]


def _inner(config: PretrainedConfig) -> int:
    """Width of the MLPs between their two matrices."""
    given = (getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return next((one for one in given if isinstance(one, int)), 4 * config.hidden_size)


def _shape(module: nn.Module) -> tuple[int, int]:
    """(out, in)"""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    found = layer_lists(model)
    if len(found) != 1 or getattr(model.config, "is_encoder_decoder", False):
        count = model.config.num_hidden_layers
        raise IncompatibleModels(f"{type(model).__name__} has no single list of {count} decoder layers. Edit a decoder, as Llama or GPT-2.")
    return f"{found[0][0]}.", found[0][1]
