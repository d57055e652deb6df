"""Match units group by group (Ainsworth et al. 2023, Git Re-Basin, algorithm 1): each step is a linear assignment.

What is maximised is the sum, over everything compared, of the products of what is matched. A :class:`Similarity` says what is
compared: weights, or activations on data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lfm_tasks.reuse.alignment.pair import Decide, at_once
from lfm_tasks.reuse.alignment.specification import Permutations
from lfm_tasks.seeds import derive_seed

SWEEPS = 100
"""Most times that every group is visited; a handful is usual."""


class Similarity(Protocol):
    def between(self, group: str, permutations: Permutations) -> Tensor:
        """``[reference's unit, model's unit]``, with all other groups as they are permuted by now.

        Groups without a permutation are summed out on both sides first, so that their order does not matter.
        """


def match(similarity: Similarity, groups: Mapping[str, int], seed: int, decide: Decide = at_once) -> Permutations:
    """The better of two local optima: from the units' present places, and from an estimate that does not depend on them.

    A permuted copy is recovered exactly: with what is unknown summed out, its own permutation maximises the similarity of the
    first group, and of each next one (the rearrangement inequality, for vectors).
    """
    identity = {group: torch.arange(size) for group, size in groups.items()}
    estimate: Permutations = {}
    for group in groups:
        estimate[group] = decide(partial(_assigned, similarity, group, estimate))
    return max((ascend(similarity, start, seed, decide) for start in (identity, estimate)), key=lambda found: total(similarity, found))


def ascend(similarity: Similarity, start: Permutations, seed: int, decide: Decide = at_once) -> Permutations:
    """Coordinate ascent over the groups, each sweep in an order of its own, until no group gains."""
    permutations = dict(start)
    names = list(permutations)
    for sweep in range(SWEEPS):
        gained = False
        for place in np.random.default_rng(derive_seed(seed, "match", sweep)).permutation(len(names)):
            group = names[place]
            found = decide(partial(_better, similarity, group, permutations))
            gained |= not torch.equal(found, permutations[group])
            permutations[group] = found
        if not gained:
            break
    return permutations


def _assigned(similarity: Similarity, group: str, permutations: Permutations) -> Tensor:
    return assign(similarity.between(group, permutations))


def _better(similarity: Similarity, group: str, permutations: Permutations) -> Tensor:
    """The group's best permutation, or the one that it has where the best gains no more than rounding."""
    between = similarity.between(group, permutations)
    found, units = assign(between), torch.arange(len(between))
    gain = between[units, found].sum() - between[units, permutations[group]].sum()
    return found if gain > 1e-6 * between.abs().max() * len(units) else permutations[group]


def assign(between: Tensor) -> Tensor:
    """For each unit of the reference, the model's unit: the permutation of the largest sum."""
    return torch.from_numpy(linear_sum_assignment(between.double().numpy(), maximize=True)[1])


def total(similarity: Similarity, permutations: Permutations) -> float:
    """Sum over the groups of the similarity of what is matched; what several groups share counts once for each."""
    return sum(
        float(similarity.between(group, permutations)[torch.arange(len(found)), found].sum()) for group, found in permutations.items()
    )
