"""WUDI (Cheng et al. 2025): the matrix that interferes least with each task vector's row space, found from two sums of products."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import WudiConfig
from lfm_tasks.reuse.methods.subspace import add_mean, is_matrix, task_matrices


def wudi(group: Group, options: WudiConfig) -> Tensor:
    """theta_0 + X, X by Adam on sum_t ||(X − tau_t) tau_t^T||^2 / ||tau_t||^2 from X = sum_t tau_t. Other tensors: the mean.

    The gradient is 2 (X S − R) with S = sum tau^T tau / n and R = sum tau tau^T tau / n: one product a step for any number of tasks.
    """
    base, deltas = task_matrices(group)
    if not is_matrix(base):
        return add_mean(group, base, deltas)
    squares, target = torch.zeros(base.shape[1], base.shape[1], dtype=base.dtype), torch.zeros_like(base)
    for delta in deltas:
        if norm := float(delta.square().sum()):
            products = delta.T @ delta / norm
            squares += products
            target += delta @ products
    merged = sum(deltas[1:], deltas[0])
    optimizer = torch.optim.Adam([merged], lr=options.learning_rate)
    for _ in range(options.adam_steps):
        merged.grad = 2 * (merged @ squares - target)
        optimizer.step()
    return (base + merged.detach()).to(group.dtype)


WUDI = MergeMethod(wudi, base="required")
