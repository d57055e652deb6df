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
    return _counted(lambda b, m: torch.bincount(_bits(m - b) >> 16, minlength=COARSE), COARSE, base, model)


def fine_counts(base: Tensor, model: Tensor, coarse: int) -> Tensor:
    """How many |model − base| of the coarse bin ``coarse`` are in each fine bin, [FINE]."""

    def count(b: Tensor, m: Tensor) -> Tensor:
        bits = _bits(m - b).numpy()  # a mask picks elements five times as fast there
        return torch.from_numpy(np.bincount(bits[(bits >> 16) == coarse] & 0xFFFF, minlength=FINE))

    return _counted(count, FINE, base, model)


def coarse_bin(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the ``rank``-th largest (from 1), and its rank within that bin."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    return len(counts) - 1 - place, rank - (int(above[place - 1]) if place else 0)


def threshold(coarse: int, fine: Tensor, rank: int) -> float:
    """The magnitude of the ``rank``-th largest (from 1) in the coarse bin."""
    bits = coarse << 16 | coarse_bin(fine, rank)[0]
    return float(torch.tensor([bits], dtype=torch.int32).view(torch.float32))


def largest(base: Tensor, model: Tensor, *ranks: int) -> list[float]:
    """The ``rank``-th largest |model − base| (from 1, rounded to float32) for each of ``ranks``."""
    counts, found = coarse_counts(base, model), []
    for rank in ranks:
        coarse, within = coarse_bin(counts, rank)
        found.append(threshold(coarse, fine_counts(base, model, coarse), within))
    return found


def _bits(delta: Tensor) -> Tensor:
    return delta.abs().float().view(torch.int32)


def _counted(count: Callable[[Tensor, Tensor], Tensor], bins: int, base: Tensor, model: Tensor) -> Tensor:
    counts = torch.zeros(bins, dtype=torch.int64)
    for _, parts in blocks(base, model, size=4 * BLOCK):  # few blocks: each adds to every bin
        counts += count(*parts)
    return counts
