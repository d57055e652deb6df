"""DARE (Yu et al. 2024): drop elements of the task vectors at random and rescale the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import DareLinearConfig, DareTiesConfig
from lfm_tasks.reuse.methods.task_vectors import Sparsify, l1_factor, merge_task_vectors

LEVELS = 1 << 16
"""A random level of sixteen bits costs a fifth of a random float."""


def dare_linear(group: Group, options: DareLinearConfig) -> Tensor:
    """theta_0 + scale * sum_i w_i m_i tau_i / (1 − p), m_i of Bernoulli(1 − p); 1 − p is rounded to 1/65536."""
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
    factor = {"inverse": LEVELS / _kept_levels(options.drop_rate), "none": 1.0}.get(options.rescale)
    if factor is None:
        factor = l1_factor(group, model, _drop(group, model, options.drop_rate, 1.0))
    return _drop(group, model, options.drop_rate, factor)


def _drop(group: Group, model: int, drop_rate: float, factor: float) -> Sparsify:
    levels, least = draws(group, model), _kept_levels(drop_rate) - LEVELS // 2

    def drop(_: slice, delta: Tensor) -> Tensor:
        kept = delta.numpy()
        with np.errstate(invalid="ignore"):  # infinity times nothing: the engine refuses the result
            np.multiply(kept, levels(delta.numel()).numpy() < least, out=kept)  # a sixth of the time of torch's masked_fill_
        return delta if factor == 1 else delta.mul_(factor)

    return drop


def draws(group: Group, model: int) -> Callable[[int], Tensor]:
    """The next so many of the tensor's random levels, int16 from -32768 on: four to a word, the same however they are asked for."""
    words, left = group.stream(model, "drop").bit_generator, np.empty(0, np.int16)

    def draw(count: int) -> Tensor:
        nonlocal left
        fresh = words.random_raw((count - len(left) + 3) // 4).view(np.int16)
        levels = np.concatenate([left, fresh]) if len(left) else fresh
        left = levels[count:]
        return torch.from_numpy(levels[:count])

    return draw


def _kept_levels(drop_rate: float) -> int:
    return min(LEVELS - 1, max(1, round((1 - drop_rate) * LEVELS)))


DARE_LINEAR = MergeMethod(dare_linear, base="required")
DARE_TIES = MergeMethod(dare_ties, base="required")
