"""Averages of models: uniform soup, linear, and weights that change with depth."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lfm_tasks.reuse.blocks import blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import LinearConfig, UniformSoupConfig, WeightedConfig, divided_by_sum


def uniform_soup(group: Group, options: UniformSoupConfig) -> Tensor:
    """The mean (Wortsman et al. 2022)."""
    return weighted_sum(group, [1 / len(group.models)] * len(group.models))


def linear(group: Group, options: LinearConfig) -> Tensor:
    """sum_i w_i theta_i, divided by sum_i w_i where ``normalize``."""
    models = len(group.models)
    return weighted_sum(group, options.normalized(models) if options.normalize else options.weights_of(models))


def weighted(group: Group, options: WeightedConfig) -> Tensor:
    """As :func:`linear`, with weights that go from ``weights`` in the first layer to ``deep_weights`` in the last."""
    shallow = options.weights_of(len(group.models))
    deep = options.model_copy(update={"weights": options.deep_weights}).weights_of(len(group.models)) if options.deep_weights else shallow
    weights = [(1 - group.depth) * first + group.depth * last for first, last in zip(shallow, deep, strict=True)]
    return weighted_sum(group, divided_by_sum(weights, f"weights of {group.name}") if options.normalize else weights)


def weighted_sum(group: Group, weights: Sequence[float]) -> Tensor:
    def add(_: slice, *models: Tensor) -> Tensor:
        total = models[0] * weights[0]
        for model, weight in zip(models[1:], weights[1:], strict=True):
            total.add_(model, alpha=weight)
        return total

    return blockwise(add, *group.models, dtype=group.dtype)


UNIFORM_SOUP = MergeMethod(uniform_soup, base="ignored")
LINEAR = MergeMethod(linear, base="ignored")
WEIGHTED = MergeMethod(weighted, base="ignored")
