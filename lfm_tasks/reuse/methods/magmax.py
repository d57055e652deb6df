"""MagMax (Marczak et al. 2024): each element from the task vector in which it is largest."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import MagmaxConfig


def magmax(group: Group, options: MagmaxConfig) -> Tensor:
    """theta_0 + scale * tau_i, i = argmax |tau_i| for each element; of equals the first."""

    def merge(_: slice, base: Tensor, *models: Tensor) -> Tensor:
        largest = models[0] - base
        for model in models[1:]:
            delta = model - base
            largest = torch.where(delta.abs() > largest.abs(), delta, largest)
        return torch.add(base, largest, alpha=options.scale)

    return blockwise(merge, group.base, *group.models, dtype=group.dtype)


MAGMAX = MergeMethod(magmax, base="required")
