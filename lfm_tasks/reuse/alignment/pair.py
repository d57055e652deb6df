"""What an alignment method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lfm_tasks.reuse.alignment.specification import Permutations, Specification

Decide = Callable[[Callable[[], Tensor]], Tensor]
"""Asks for the next of a fixed sequence of decisions, each a tensor; who is asked may know it from before."""


def at_once(compute: Callable[[], Tensor]) -> Tensor:
    return compute()


class Correlations(Protocol):
    def __call__(self, *, joint: bool) -> dict[str, Tensor]:
        """See :func:`lfm_tasks.reuse.alignment.activations.correlate`: the reference first, then the model."""


@dataclass(frozen=True)
class Pair:
    """Two models of one architecture. ``reference`` and ``model`` are their tensors by name, borrowed."""

    specification: Specification
    network: nn.Module
    """The reference as a module: where each tensor belongs."""
    reference: Mapping[str, Tensor]
    model: Mapping[str, Tensor]
    correlations: Correlations | None
    """None without data."""
    seed: int
    decide: Decide = at_once

    def parameters(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that were trained; the statistics of a normalisation follow them."""
        buffers = dict(self.network.named_buffers(remove_duplicate=False))
        return {name: tensor for name, tensor in tensors.items() if name in self.specification.axes and name not in buffers}


@dataclass(frozen=True)
class Aligned:
    tensor: Callable[[str], Tensor]
    """A tensor of the result by its name, of the model's shape and dtype; of those in the specification."""
    moved: int
    """Units that changed their place."""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AlignMethod:
    align: Callable[[Pair, Any], Aligned]
    data: Literal["required", "optional", "ignored"]
    exact: bool
    """Whether the result computes what the model computed."""


def permuted(pair: Pair, permutations: Permutations, **metrics: float) -> Aligned:
    def tensor(name: str) -> Tensor:
        return pair.specification.apply(name, pair.model[name], permutations)

    return Aligned(tensor, moved_units(permutations), metrics)


def moved_units(permutations: Permutations) -> int:
    return sum(int((found != torch.arange(len(found))).sum()) for found in permutations.values())
