"""What the linear layers of a model are given: sums of x x^T over the tokens, gathered while the model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.resuming import below, under


@dataclass(frozen=True)
class Layer:
    module: nn.Module
    input_axis: int
    """Of the weight: 1 of nn.Linear's [out, in], 0 of GPT-2's Conv1D, [in, out]."""


def linear_layers(model: nn.Module) -> dict[str, Layer]:
    """By the name of the weight. A weight that another module has as well is none: an embedding tied to the head is read there, too."""
    owners = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    return {
        f"{name}.weight".removeprefix("."): Layer(module, 0 if isinstance(module, Conv1D) else 1)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and owners[id(module.weight)] == 1
    }


@dataclass
class InputProducts:
    """Layers that are called one after another with one tensor share one sum, that of the first of them."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    """sum x x^T [in, in] over the tokens, by the layers that have one of their own."""
    tokens: dict[str, int] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    """Layer to the layer whose sum is also its own, or to itself."""
    _last: tuple[Tensor, int, str] | None = None

    def mean(self, name: str) -> Tensor:
        """sum x x^T / tokens of a layer that was called."""
        return self.sums[self.shared[name]] / self.tokens[self.shared[name]]

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors; a layer is named by ``layer/``, its owner's place among the layers that have a sum."""
        places = {name: place for place, name in enumerate(self.sums)}
        return {
            **under(self.sums, "sum"),
            **{f"tokens/{name}": torch.tensor([count, places[name]]) for name, count in self.tokens.items()},
            **{f"layer/{name}": torch.tensor([place, places[owner]]) for place, (name, owner) in enumerate(self.shared.items())},
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """What :meth:`state` gave, in the order of the first calls."""
        sums, counts = below(state, "sum"), {name: one.tolist() for name, one in below(state, "tokens").items()}
        owners = sorted(counts, key=lambda name: counts[name][1])
        self.sums, self.tokens = {name: sums[name] for name in owners}, {name: counts[name][0] for name in owners}
        layers = {name: one.tolist() for name, one in below(state, "layer").items()}
        self.shared = {name: owners[layers[name][1]] for name in sorted(layers, key=lambda name: layers[name][0])}

    def see(self, name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        (x,) = given
        again = self._last is not None and self._last[0] is x and self._last[1] == x._version
        owner = self._last[2] if again else name
        if self.shared.setdefault(name, owner) != owner:
            raise IncompatibleModels(
                f"{name} has the input of {self.shared[name]} for some rows and another for others. Its Gram matrix cannot be gathered; "
                "merge by a method without activations."
            )
        self._last = (x, x._version, owner)
        if owner == name:
            tokens = x.reshape(-1, x.shape[-1])
            product = tokens.T @ tokens
            self.sums[name] = self.sums[name].add_(product) if name in self.sums else product
            self.tokens[name] = self.tokens.get(name, 0) + len(tokens)


@contextmanager
def input_products(layers: Mapping[str, Layer]) -> Iterator[InputProducts]:
    """While it is open, every run of the model, without gradients and without padding, adds to the products."""
    products = InputProducts()
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.module.register_forward_pre_hook(partial(products.see, name)))
        yield products
