"""DARE (Yu et al. 2024): drop elements of the task vectors at random and rescale the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import DareLinearConfig, DareTiesConfig
from lfm_tasks.reuse.methods.task_vectors import Sparsify, l1_factor, merge_task_vectors


def dare_linear(group: Group, options: DareLinearConfig) -> Tensor:
    """theta_0 + scale * sum_i w_i m_i tau_i / (1 − p), m_i of Bernoulli(1 − p)."""
    return merge_task_vectors(group, options.weights_of(len(group.models)), options.scale, _droppers(group, options))


def dare_ties(group: Group, options: DareTiesConfig) -> Tensor:
    """The same, with TIES' election in place of the sum; the random drop is the trim."""
    weights = options.weights_of(len(group.models))
    return merge_task_vectors(group, weights, options.scale, _droppers(group, options), options.elect, options.combine)


def _droppers(group: Group, options: DareLinearConfig) -> list[Sparsify]:
    if options.drop_rate == 0:
        return [lambda _, delta: delta] * len(group.models)
    return [_dropper(group, model, options) for model in range(len(group.models))]


def _dropper(group: Group, model: int, options: DareLinearConfig) -> Sparsify:
    factor = {"inverse": 1 / (1 - options.drop_rate), "none": 1.0}.get(options.rescale)
    if factor is None:
        factor = l1_factor(group, model, _drop(group, model, options.drop_rate, 1.0))
    return _drop(group, model, options.drop_rate, factor)


def _drop(group: Group, model: int, drop_rate: float, factor: float) -> Sparsify:
    stream = group.stream(model, "drop")

    def drop(_: slice, delta: Tensor) -> Tensor:
        keep = torch.from_numpy(stream.random(delta.numel(), dtype="float32")).lt_(1 - drop_rate)
        return delta.mul_(keep) if factor == 1 else delta.mul_(keep).mul_(factor)

    return drop


DARE_LINEAR = MergeMethod(dare_linear, base="required")
DARE_TIES = MergeMethod(dare_ties, base="required")
