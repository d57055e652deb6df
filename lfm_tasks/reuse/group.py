"""What a merge kernel is given, and what a merge method is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lfm_tasks.seeds import derive_seed

if TYPE_CHECKING:
    from lfm_tasks.reuse.learning import Learning, Learnt


@dataclass(frozen=True)
class Group:
    """The tensors of one name, all of one shape, in the dtypes they are stored in. Borrowed: a kernel never writes to them."""

    name: str
    base: Tensor | None
    models: tuple[Tensor, ...]
    keys: tuple[str, ...]
    """Content hash of each model: with ``seed`` and ``name`` it keys all randomness."""
    dtype: torch.dtype
    """Of the result."""
    seed: int = 0
    depth: float = 0.0
    """0 in the first layer (and outside of layers), 1 in the last."""
    learnt: Tensor | None = None
    """What the method learnt from data for this tensor."""
    statistics: tuple[Tensor, ...] | None = None
    """The models' statistics of this tensor; None where there are none of it, or the method uses none."""
    input_axis: int = 1
    """Of a linear layer's weight that has a Gram matrix: 1 of [out, in], 0 of GPT-2's [in, out]."""
    surveyed: tuple[Tensor, ...] = ()
    """Sums over all tensors of the model, one for each survey of the method that is done."""

    def stream(self, model: int, purpose: str) -> np.random.Generator:
        """Random numbers of one model's tensor, the same wherever and whenever they are drawn."""
        return np.random.Generator(np.random.SFC64(derive_seed(self.seed, purpose, self.keys[model], self.name)))


Survey = Callable[[Group, Any], Tensor]
"""A tensor's part of a sum over the whole model."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The models that a method takes."""

    base: Literal["required", "optional", "ignored"] = "required"
    least: int = 1
    most: int | None = None
    """Beside the base."""

    def takes(self, models: int) -> bool:
        return self.least <= models and (self.most is None or models <= self.most)


@dataclass(frozen=True)
class MergeMethod(Roles):
    kernel: Callable[[Group, Any], Tensor]
    """``(group, options) -> merged``, of the group's shape and dtype."""
    learn: Callable[[Learning, Any], Learnt | Mapping[str, Tensor]] | None = None
    """``(learning, options) -> learnt``, by the tensors' names: looks at data before the first tensor is merged."""
    statistics: str | None = None
    """Kind of the statistics that the method takes, one for each model."""
    split: Literal["train", "validation"] = "train"
    """Rows that it looks at where the config leaves that to the method."""
    one_task: bool = False
    """The models are of one task: ``learn`` is given that one, opened with the first model."""
    surveys: Callable[[Any], tuple[Survey, ...]] = lambda options: ()
    """Passes over all tensors that come before the merge; each sees the sums of those before it."""
