"""Averages of models: uniform soup and linear."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lfm_tasks.reuse.blocks import blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import LinearConfig, UniformSoupConfig


def uniform_soup(group: Group, options: UniformSoupConfig) -> Tensor:
    """The mean (Wortsman et al. 2022)."""
    return weighted_sum(group, [1 / len(group.models)] * len(group.models))


def linear(group: Group, options: LinearConfig) -> Tensor:
    """sum_i w_i theta_i, divided by sum_i w_i where ``normalize``."""
    models = len(group.models)
    return weighted_sum(group, options.normalized(models) if options.normalize else options.weights_of(models))


def weighted_sum(group: Group, weights: Sequence[float]) -> Tensor:
    def add(_: slice, *models: Tensor) -> Tensor:
        total = models[0] * weights[0]
        for model, weight in zip(models[1:], weights[1:], strict=True):
            total.add_(model, alpha=weight)
        return total

    return blockwise(add, *group.models, dtype=group.dtype)


UNIFORM_SOUP = MergeMethod(uniform_soup, base="ignored")
LINEAR = MergeMethod(linear, base="ignored")
