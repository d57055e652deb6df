"""WEMoE (Tang et al. 2024, arXiv 2402.00433) and E-WEMoE (Shen et al. 2024, arXiv 2410.21804): feed-forwards whose weights are
put together anew for every sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.mixtures import task_vectors as vectors
from lfm_tasks.models.mixtures.files import Description
from lfm_tasks.models.mixtures.smile import is_linear, width
from lfm_tasks.models.mixtures.task_vectors import Router, combined

ELEMENTS_AT_ONCE = 1 << 25
"""Most numbers of per-sample weights in memory."""
SHARED = "shared"


@dataclass
class Padding:
    """The attention mask of the pass that runs; the weights of a sample must not depend on how far it is padded."""

    mask: Tensor | None = None

    def see(self, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.mask = named.get("attention_mask")


@dataclass
class Gate:
    """What the modules of one feed-forward share: the weights [batch, experts] that its first module was routed."""

    padding: Padding
    weights: Tensor | None = None
    reduced: bool = False
    """One set of weights for the whole batch, as in training."""

    def set(self, routed: Tensor) -> None:
        """``routed`` [batch, ..., experts] is averaged over the tokens of each sample."""
        mask = self.padding.mask
        if routed.dim() == 1:
            self.weights = routed[None]
        elif routed.dim() == 3 and mask is not None and mask.shape == routed.shape[:2]:
            share = mask.to(routed.dtype) / mask.sum(1, keepdim=True)
            self.weights = (share[:, None] @ routed).squeeze(1)
        else:
            self.weights = routed.flatten(1, -2).mean(1) if routed.dim() > 2 else routed
        if self.reduced:
            self.weights = self.weights.mean(0, keepdim=True)


class WeightEnsembling(nn.Module):
    """``module`` with the weights ``base + sum_t w_t task_vectors_t``, where w is the sample's; the first of a feed-forward routes."""

    def __init__(self, module: nn.Module, task_vectors: Mapping[str, Tensor], gate: Gate, router: Router | None) -> None:
        super().__init__()
        self.module, self.gate, self.router, self.names = module, gate, router, list(task_vectors)
        self.task_vectors = nn.ParameterList(nn.Parameter(one, requires_grad=False) for one in task_vectors.values())

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.router is not None:
            self.gate.set(self.router(inputs[0]))
        weights = self.gate.weights
        if len(weights) == 1:
            return functional_call(self.module, self.combined(weights[0]), inputs)
        at_once = max(1, ELEMENTS_AT_ONCE // sum(one[0].numel() for one in self.task_vectors))
        parts = zip(weights.split(at_once), *(one.split(at_once) for one in inputs), strict=True)
        return torch.cat([vmap(self._one, randomness="different")(self.combined(some), *given) for some, *given in parts])

    def combined(self, weights: Tensor) -> dict[str, Tensor]:
        parameters = dict(self.module.named_parameters())
        return {name: combined(parameters[name], one, weights) for name, one in zip(self.names, self.task_vectors, strict=True)}

    def _one(self, tensors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        return functional_call(self.module, tensors, inputs)


def layout(model: nn.Module, description: Description, places: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """An entry of ``description.modules`` is ``{"feed_forward", "first"}``: which feed-forward it belongs to, and whether it routes."""
    routers = vectors.router_layout(router_widths(model, description, places), description)
    return vectors.task_vector_layout(model, description, places) | routers


def router_widths(model: nn.Module, description: Description, places: Mapping[str, str]) -> dict[str, int]:
    """The width of each router's input. Raises :class:`ConfigError` where one router shall serve inputs of several widths."""
    widths = {}
    for name, place in places.items():
        if description.modules[name]["first"]:
            first = next(layer for layer in model.get_submodule(place).modules() if is_linear(layer))
            widths[description.modules[name]["feed_forward"]] = width(first)[0]
    if description.method != "e_wemoe":
        return widths
    if len(set(widths.values())) > 1:
        raise ConfigError(f"Inputs of {sorted(set(widths.values()))} numbers cannot share a router. Mix fewer modules, or choose wemoe.")
    return {SHARED: next(iter(widths.values()))}


def install(
    model: nn.Module,
    description: Description,
    tensors: Mapping[str, Tensor],
    places: Mapping[str, str],
    routers: Mapping[str, Router] | None = None,
) -> None:
    """``routers`` in the place of those in ``tensors``: several models may share them."""
    padding, gates = Padding(), {}
    model.register_forward_pre_hook(padding.see, with_kwargs=True)
    routers = routers or vectors.read_routers(tensors, router_widths(model, description, places), description)
    for name, place in places.items():
        module, entry = model.get_submodule(place), description.modules[name]
        own = {part: vectors.read_task_vectors(tensors, f"{name}.{part}", one.shape) for part, one in module.named_parameters()}
        gate = gates.setdefault(entry["feed_forward"], Gate(padding))
        router = routers[SHARED if SHARED in routers else entry["feed_forward"]] if entry["first"] else None
        model.set_submodule(place, WeightEnsembling(module, own, gate, router))


def static_weights(description: Description, tensors: Mapping[str, Tensor], preference: list[float]) -> dict[str, Tensor]:
    """Weights [experts] of each module where they do not depend on the input. Raises :class:`ConfigError` where they do."""
    if description.options["router_depth"] > 0:
        raise ConfigError(
            f"This mixture ({description.method}) routes every sample by its hidden states, so no single set of weights answers as it "
            "does. Only one of router_depth=0 becomes a plain model."
        )
    if preference:
        raise ConfigError(f"preference {preference}: a mixture of {description.method} has none. Leave it out.")
    shared = description.method == "e_wemoe"
    names = {name: SHARED if shared else entry["feed_forward"] for name, entry in description.modules.items()}
    return {name: tensors[f"{vectors.ROUTER}.{router}.bias"] for name, router in names.items()}
