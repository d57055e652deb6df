"""Git Re-Basin's weight matching (Ainsworth et al. 2023): units match where their weights do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lfm_tasks.reuse.alignment.config import WeightMatchingConfig
from lfm_tasks.reuse.alignment.matching import match
from lfm_tasks.reuse.alignment.pair import Aligned, AlignMethod, Pair, permuted
from lfm_tasks.reuse.alignment.specification import Permutations, Specification


class WeightSimilarity:
    """Products of the weights of each two units, over all tensors that the group stands in."""

    def __init__(self, specification: Specification, reference: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
        self.specification, self.reference, self.model = specification, reference, model
        self.holders = specification.holders()

    def between(self, group: str, permutations: Permutations) -> Tensor:
        size = self.specification.groups[group]
        total = torch.zeros(size, size)
        for name, place in self.holders[group]:
            if name in self.reference:
                total += (
                    self._of(self.reference[name], name, place, permutations, permuted=False)
                    @ self._of(self.model[name], name, place, permutations, permuted=True).mT
                )
        return total

    def _of(self, tensor: Tensor, name: str, place: int, permutations: Permutations, *, permuted: bool) -> Tensor:
        """``[unit, all else]``."""
        unfolded = self.specification.unfold(name, tensor.float())
        for other, (group, _) in enumerate(self.specification.dims(name)):
            if group is None or other == place:
                continue
            if group not in permutations:
                unfolded = unfolded.sum(other, keepdim=True)
            elif permuted:
                unfolded = unfolded.index_select(other, permutations[group])
        return unfolded.movedim(place, 0).flatten(1) if unfolded.dim() > 1 else unfolded[:, None]


def weight_similarity(pair: Pair) -> WeightSimilarity:
    return WeightSimilarity(pair.specification, pair.parameters(pair.reference), pair.parameters(pair.model))


def weight_matching(pair: Pair, options: WeightMatchingConfig) -> Aligned:
    return permuted(pair, match(weight_similarity(pair), pair.specification.groups, pair.seed, pair.decide))


WEIGHT_MATCHING = AlignMethod(weight_matching, data="ignored", exact=True)
