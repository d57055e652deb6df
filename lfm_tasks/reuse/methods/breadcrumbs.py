"""Model Breadcrumbs (Davari and Belilovsky 2024): drop the largest and the smallest elements of each task vector."""

from __future__ import annotations

from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.magnitudes import largest
from lfm_tasks.reuse.methods.config import BreadcrumbsConfig, BreadcrumbsTiesConfig
from lfm_tasks.reuse.methods.task_vectors import Sparsify, merge_task_vectors


def breadcrumbs(group: Group, options: BreadcrumbsConfig) -> Tensor:
    return merge_task_vectors(group, options.weights_of(len(group.models)), options.scale, _trimmers(group, options))


def breadcrumbs_ties(group: Group, options: BreadcrumbsTiesConfig) -> Tensor:
    """The same, with TIES' election in place of the sum."""
    weights = options.weights_of(len(group.models))
    return merge_task_vectors(group, weights, options.scale, _trimmers(group, options), options.elect, options.combine)


def kept_ranks(elements: int, density: float, gamma: float) -> range:
    """Ranks that stay, counted from the smallest: int(density * N) of them, below the largest int(gamma * N) where those fit."""
    count = int(density * elements)
    first = max(0, elements - count - int(gamma * elements))
    return range(first, first + count)


def _trimmers(group: Group, options: BreadcrumbsConfig) -> list[Sparsify]:
    ranks = kept_ranks(group.base.numel(), options.density, options.gamma)
    if options.density == 1:
        return [lambda _, delta: delta] * len(group.models)
    if not ranks:
        return [lambda _, delta: delta * 0] * len(group.models)
    return [_between(*largest(group.base, model, model.numel() - ranks[0], model.numel() - ranks[-1])) for model in group.models]


def _between(low: float, high: float) -> Sparsify:
    def trim(_: slice, delta: Tensor) -> Tensor:
        magnitude = delta.abs().float()
        return delta * ((magnitude >= low) & (magnitude <= high))

    return trim


BREADCRUMBS = MergeMethod(breadcrumbs, base="required")
BREADCRUMBS_TIES = MergeMethod(breadcrumbs_ties, base="required")
