"""Losses of several parts in one step: L = Σ_p s_p · (mean loss of the targets of part p).

For two tasks that is L = α · a + (1 − α) · b of Hsieh et al. 2023, Distilling Step-by-Step (arXiv 2305.02301), at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lfm_tasks.training.split import Split


def weighed(split: Split, examples: Sequence[int]) -> Split:
    """``split`` with the weights by which the mean loss over all targets of ``examples`` becomes L; as it is, where it has no parts."""
    if split.parts is None:
        return split
    places = np.asarray(examples, dtype=np.int64)
    targets = np.array([len(split.tokens[place]) for place in places]) - split.first[places]
    weights = np.zeros(len(split))
    weights[places] = part_weights(split.parts[places], targets, split.shares)
    return replace(split, weights=weights)


def part_weights(parts: NDArray[np.int64], targets: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the targets of each row: w = s_p · N / N_p for a row of part p, N_p of the N ``targets`` being of p.

    The shares of parts that have no row here go to the others, in proportion.
    """
    counts = np.bincount(parts, weights=targets, minlength=len(shares))
    there = shares[counts > 0].sum()
    return shares[parts] / there * targets.sum() / counts[parts]
