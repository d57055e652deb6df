"""DARE (Yu et al. 2024): drop elements of the task vectors at random and rescale the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import DareLinearConfig, DareTiesConfig
from lfm_tasks.reuse.methods.task_vectors import Sparsify, l1_factors, merge_task_vectors

Mask = Callable[[int], NDArray[Any]]
"""The next so many elements of a mask of zeros and ones."""
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
    masks = [_masks(group, model, options.drop_rate) for model in range(len(group.models))]
    if options.rescale != "l1":
        factor = LEVELS / _kept_levels(options.drop_rate) if options.rescale == "inverse" else 1.0
        return [_drop(mask, factor) for mask in masks]
    recorded: list[list[tuple[NDArray[np.uint8], int]]] = [[] for _ in masks]
    factors = l1_factors(group, [_drop(_recording(mask, chunks), 1.0) for mask, chunks in zip(masks, recorded, strict=True)])
    return [_drop(_replaying(chunks), factor) for chunks, factor in zip(recorded, factors, strict=True)]


def _drop(mask: Mask, factor: float) -> Sparsify:
    def drop(_: slice, delta: Tensor) -> Tensor:
        kept = delta.numpy()
        with np.errstate(invalid="ignore"):  # infinity times nothing: the engine refuses the result
            np.multiply(kept, mask(delta.numel()), out=kept)  # a sixth of the time of torch's masked_fill_
        return delta if factor == 1 else delta.mul_(factor)

    return drop


def _masks(group: Group, model: int, drop_rate: float) -> Mask:
    levels, least = draws(group, model), _kept_levels(drop_rate) - LEVELS // 2
    return lambda count: levels(count).numpy() < least


def _recording(mask: Mask, chunks: list[tuple[NDArray[np.uint8], int]]) -> Mask:
    """``mask``, whose answers are kept in ``chunks``, a bit for each element: a tenth of the time of drawing them again."""

    def record(count: int) -> NDArray[Any]:
        drawn = mask(count)
        chunks.append((np.packbits(drawn), count))
        return drawn

    return record


def _replaying(chunks: list[tuple[NDArray[np.uint8], int]]) -> Mask:
    return _in_any_portions(np.unpackbits(packed, count=count) for packed, count in chunks)


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


def _in_any_portions(parts: Iterator[NDArray[Any]]) -> Mask:
    """The next so many elements of the parts put one after another."""
    left = np.empty(0, np.uint8)

    def take(count: int) -> NDArray[Any]:
        nonlocal left
        while len(left) < count:
            left = np.concatenate([left, next(parts)])
        taken, left = left[:count], left[count:]
        return taken

    return take


def _kept_levels(drop_rate: float) -> int:
    return min(LEVELS - 1, max(1, round((1 - drop_rate) * LEVELS)))


DARE_LINEAR = MergeMethod(dare_linear, base="required")
DARE_TIES = MergeMethod(dare_ties, base="required")
