"""Changes in a model's weights for a while: afterwards these are what they were, bit for bit. Nothing is subtracted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lfm_tasks.models.edits import LowRank, Round, apply_edits


@contextmanager
def restored(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Inside the block the weights ``names`` may be written to."""
    before = copies(model, names)
    try:
        yield
    finally:
        put_back(model, before)


@contextmanager
def written(model: nn.Module, changes: Sequence[LowRank]) -> Iterator[None]:
    with restored(model, {change.name for change in changes}):
        apply_edits(model, [Round((), tuple(changes))])
        yield


def copies(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    weights = dict(model.named_parameters())
    return {name: weights[name].detach().clone() for name in names}


def put_back(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in kept.items():
            weights[name].copy_(weight)
