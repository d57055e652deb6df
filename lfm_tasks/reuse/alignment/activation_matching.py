"""Activation matching: units match where they go together on data (Li et al. 2016; Ainsworth et al. 2023, section 3.1).

A unit that never changes on the data goes together with none, and gets a place that is left over.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lfm_tasks.reuse.alignment.config import ActivationMatchingConfig
from lfm_tasks.reuse.alignment.matching import match
from lfm_tasks.reuse.alignment.pair import Aligned, AlignMethod, Pair, permuted
from lfm_tasks.reuse.alignment.specification import Permutations, Specification


class ActivationSimilarity:
    """Correlations of each two units, over all modules that show the group."""

    def __init__(self, specification: Specification, correlations: Mapping[str, Tensor]) -> None:
        self.specification = specification
        self.unfolded = {}
        for module, correlation in correlations.items():
            factors = specification.features[module][1]
            sizes = [size for _, size in factors]
            self.unfolded[module] = ([group for group, _ in factors], correlation.reshape(*sizes, *sizes))

    def between(self, group: str, permutations: Permutations) -> Tensor:
        size = self.specification.groups[group]
        total = torch.zeros(size, size)
        for groups, correlation in self.unfolded.values():
            if groups.count(group) == 1:
                total += self._of(groups, correlation, group, permutations)
        return total

    def _of(self, groups: list[str | None], correlation: Tensor, group: str, permutations: Permutations) -> Tensor:
        """The other dimensions of the axis are matched as they are permuted by now, or summed out."""
        for place, other in reversed(list(enumerate(groups))):
            if other == group:
                continue
            there = correlation.dim() // 2 + place
            if other is None or other in permutations:
                if other is not None:
                    correlation = correlation.index_select(there, permutations[other])
                correlation = correlation.diagonal(dim1=place, dim2=there).sum(-1)
            else:
                correlation = correlation.sum((place, there))
        return correlation

    def mean(self, permutations: Permutations) -> float:
        """Correlation of a unit with the one that it is matched with, on average."""
        total, units = 0.0, 0
        for groups, correlation in self.unfolded.values():
            for place, group in enumerate(groups):
                if group is not None:
                    there = len(groups) + place
                    correlation = correlation.index_select(there, permutations[group])
            size = correlation.numel() ** 0.5
            total, units = total + float(correlation.reshape(round(size), -1).trace()), units + round(size)
        return total / units


def activation_similarity(pair: Pair) -> ActivationSimilarity:
    return ActivationSimilarity(pair.specification, pair.correlations(joint=False))


def activation_matching(pair: Pair, options: ActivationMatchingConfig) -> Aligned:
    similarity = activation_similarity(pair)
    found = match(similarity, pair.specification.groups, pair.seed, pair.decide)
    before = {group: torch.arange(size) for group, size in pair.specification.groups.items()}
    return permuted(pair, found, correlation_before=similarity.mean(before), correlation_after=similarity.mean(found))


ACTIVATION_MATCHING = AlignMethod(activation_matching, data="required", exact=True)
