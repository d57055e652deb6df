"""Tensors and texts of which row *i* belongs to edit *i*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.memories.texts import packed, unpacked


def without_row(tensors: Mapping[str, Tensor], place: int, rows: Sequence[str], texts: Sequence[str]) -> dict[str, Tensor]:
    """``tensors`` without row ``place`` of those named ``rows`` and of the texts named ``texts``; all else as it is."""
    left = dict(tensors)
    for name in rows:
        left[name] = torch.cat([tensors[name][:place], tensors[name][place + 1 :]])
    for name in texts:
        known = unpacked(name, tensors)
        left |= packed(name, known[:place] + known[place + 1 :])
    return left


def check_width(tensors: Mapping[str, Tensor], name: str, width: int, what: str) -> None:
    """Raise :class:`IncompatibleModels` unless the last axis of a tensor is as wide as the model is there."""
    if tensors[name].shape[-1] != width:
        raise IncompatibleModels(
            f"The memory's {name} have {tensors[name].shape[-1]} columns, {what} of the model has {width}. "
            "Use the base that it was made from."
        )
