"""TIES (Yadav et al. 2023): trim each task vector by magnitude, elect a sign per element, merge what agrees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.magnitudes import coarse_bin, coarse_counts, fine_counts, largest, threshold
from lfm_tasks.reuse.methods.config import TiesConfig
from lfm_tasks.reuse.methods.task_vectors import Sparsify, merge_task_vectors


def ties(group: Group, options: TiesConfig) -> Tensor:
    """Keeps max(1, int(density * N)) elements of the tensor or of the whole model, and those equal to the smallest kept."""
    least = _global(group, options) if options.trim == "global" else thresholds(group.base, group.models, options.density)
    weights = options.weights_of(len(group.models))
    return merge_task_vectors(group, weights, options.scale, [keep_from(one) for one in least], options.elect, options.combine)


def keep_from(least: float) -> Sparsify:
    """Zero where |delta|, rounded to float32, is below ``least``."""
    below = float(torch.nextafter(torch.tensor(least), torch.tensor(0.0)))

    def keep(_: slice, delta: Tensor) -> Tensor:
        if delta.dtype == torch.float32 and least:
            return torch.nn.functional.hardshrink(delta, below)
        return delta * (delta.abs().float() >= least)

    return keep


def kept(density: float, elements: int) -> int:
    return max(1, int(density * elements))


def thresholds(base: Tensor, models: Sequence[Tensor], density: float) -> list[float]:
    """The magnitude of the smallest kept element of each model's task vector of one tensor."""
    if density == 1 or not base.numel():
        return [0.0] * len(models)
    return [largest(base, model, kept(density, model.numel()))[0] for model in models]


def _global(group: Group, options: TiesConfig) -> list[float]:
    coarse, fine = group.surveyed
    found = []
    for counts, below in zip(coarse, fine, strict=True):
        place, rank = coarse_bin(counts, kept(options.density, int(counts.sum())))
        found.append(threshold(place, below, rank))
    return found


def _survey_coarse(group: Group, options: TiesConfig) -> Tensor:
    """[models, COARSE]"""
    return torch.stack([coarse_counts(group.base, model) for model in group.models])


def _survey_fine(group: Group, options: TiesConfig) -> Tensor:
    """[models, FINE]"""
    places = [coarse_bin(counts, kept(options.density, int(counts.sum())))[0] for counts in group.surveyed[0]]
    return torch.stack([fine_counts(group.base, model, place) for model, place in zip(group.models, places, strict=True)])


TIES = MergeMethod(ties, base="required", surveys=lambda options: (_survey_coarse, _survey_fine) if options.trim == "global" else ())
