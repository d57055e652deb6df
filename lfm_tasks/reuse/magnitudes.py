"""Order statistics of task vectors' magnitudes: an exact two-level radix selection on the bits of a float32.

Counts add, so the same two passes find the threshold of a tensor or of a whole model in constant memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import BLOCK, blocks

COARSE, FINE = 1 << 15, 1 << 16
"""Bins by the exponent and the seven highest bits of the mantissa, and by the sixteen bits below."""


def coarse_counts(base: Tensor, model: Tensor) -> Tensor:
    """How many |model − base| are in each coarse bin, [COARSE]."""
    return counted(lambda b, m: coarse(m - b), COARSE, base, model)


def fine_counts(base: Tensor, model: Tensor, place: int) -> Tensor:
    """How many |model − base| of the coarse bin ``place`` are in each fine bin, [FINE]."""
    return counted(lambda b, m: fine(m - b, place), FINE, base, model)


def coarse(values: Tensor) -> Tensor:
    """How many |values| are in each coarse bin, [COARSE]."""
    return torch.bincount(_bits(values) >> 16, minlength=COARSE)


def fine(values: Tensor, place: int) -> Tensor:
    """How many |values| of the coarse bin ``place`` are in each fine bin, [FINE]."""
    bits = _bits(values).numpy()  # a mask picks elements five times as fast there
    return torch.from_numpy(np.bincount(bits[(bits >> 16) == place] & 0xFFFF, minlength=FINE))


def counted(count: Callable[..., Tensor], bins: int, *tensors: Tensor) -> Tensor:
    """Sum over blocks of what ``count`` says of each, [bins]."""
    counts = torch.zeros(bins, dtype=torch.int64)
    for _, parts in blocks(*tensors, size=4 * BLOCK):  # few blocks: each adds to every bin
        counts += count(*parts)
    return counts


def coarse_bin(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the ``rank``-th largest (from 1), and its rank within that bin."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    return len(counts) - 1 - place, rank - (int(above[place - 1]) if place else 0)


def threshold(place: int, counts: Tensor, rank: int) -> float:
    """The magnitude of the ``rank``-th largest (from 1) in the coarse bin ``place``, of whose fine bins ``counts`` are."""
    bits = place << 16 | coarse_bin(counts, rank)[0]
    return float(torch.tensor([bits], dtype=torch.int32).view(torch.float32))


def largest(base: Tensor, model: Tensor, *ranks: int) -> list[float]:
    """The ``rank``-th largest |model − base| (from 1, rounded to float32) for each of ``ranks``."""
    counts, found = coarse_counts(base, model), []
    for rank in ranks:
        place, within = coarse_bin(counts, rank)
        found.append(threshold(place, fine_counts(base, model, place), within))
    return found


def _bits(delta: Tensor) -> Tensor:
    return delta.abs().float().view(torch.int32)
