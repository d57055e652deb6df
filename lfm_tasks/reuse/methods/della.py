"""DELLA (Deep et al. 2024): drop at random, small elements of a row more often than large ones, and rescale the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import DellaConfig, DellaLinearConfig
from lfm_tasks.reuse.methods.task_vectors import Sparsify, l1_factors, merge_task_vectors


def della_linear(group: Group, options: DellaLinearConfig) -> Tensor:
    """The keep probability of an element is density − epsilon + 2 epsilon r, r its rank by |tau| in its row, from 0 to 1."""
    row = _row(group)
    return merge_task_vectors(group, options.weights_of(len(group.models)), options.scale, _droppers(group, options), row=row)


def della(group: Group, options: DellaConfig) -> Tensor:
    """The same, with TIES' election in place of the sum."""
    weights = options.weights_of(len(group.models))
    sparsify = _droppers(group, options)
    return merge_task_vectors(group, weights, options.scale, sparsify, options.elect, options.combine, row=_row(group))


def keep_probabilities(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """[rows, columns] to the same. A row of one element, which has no ranks, is kept with the density itself."""
    if delta.shape[1] < 2:
        return torch.full_like(delta, density)
    ranks = delta.abs().argsort(dim=1, stable=True).argsort(dim=1).to(delta.dtype) / (delta.shape[1] - 1)
    return density - epsilon + 2 * epsilon * ranks


def _row(group: Group) -> int:
    shape = group.models[0].shape
    return shape[1:].numel() if len(shape) > 1 else shape.numel()


def _droppers(group: Group, options: DellaLinearConfig) -> list[Sparsify]:
    if options.density == 1:
        return [lambda _, delta: delta] * len(group.models)
    if not options.density - options.epsilon > 0 or not options.density + options.epsilon < 1:
        raise ConfigError(
            f"density={options.density} with epsilon={options.epsilon}: density - epsilon and density + epsilon must be between 0 and 1. "
            "Lower epsilon."
        )
    models, factors = range(len(group.models)), [1.0] * len(group.models)
    if options.rescale == "l1":
        factors = l1_factors(group, [_drop(group, model, options) for model in models], row=_row(group))
    return [_drop(group, model, options, factor) for model, factor in zip(models, factors, strict=True)]


def _drop(group: Group, model: int, options: DellaLinearConfig, factor: float = 1.0) -> Sparsify:
    stream, columns = group.stream(model, "drop"), max(1, _row(group))

    def drop(_: slice, delta: Tensor) -> Tensor:
        probabilities = keep_probabilities(delta.view(-1, columns), options.density, options.epsilon).view(-1)
        keep = torch.from_numpy(stream.random(delta.numel(), dtype="float32")) < probabilities
        delta.mul_(keep)
        return delta.div_(probabilities) if options.rescale == "inverse" else delta.mul_(factor)

    return drop


DELLA_LINEAR = MergeMethod(della_linear, base="required")
DELLA = MergeMethod(della, base="required")
