"""Fisher merging (Matena and Raffel 2021): every element averaged by how much each model's likelihood depends on it."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import accumulate, blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import FisherConfig
from lfm_tasks.reuse.methods.linear import weighted_sum


def fisher(group: Group, options: FisherConfig) -> Tensor:
    """sum_t l_t (F_t + floor) theta_t / sum_t l_t (F_t + floor); buffers, which have no Fisher information, get the weighted mean.

    l_t are the weights, divided by ||F_t|| + floor over the whole model where ``equalize``.
    """
    models, weights = len(group.models), options.normalized(len(group.models))
    if group.statistics is None:
        return weighted_sum(group, weights)
    if options.equalize:
        norms = group.surveyed[0].sqrt() + options.floor
        weights = [weight / norm for weight, norm in zip(weights, (norms * (1 / norms).sum()).tolist(), strict=True)]

    def merge(_: slice, *parts: Tensor) -> Tensor:
        total, divisor = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
        for theta, information, weight in zip(parts[:models], parts[models:], weights, strict=True):
            share = (information + options.floor) * weight
            total.addcmul_(share, theta)
            divisor += share
        return total / divisor

    return blockwise(merge, *group.models, *group.statistics, dtype=group.dtype)


def _squares(group: Group, options: FisherConfig) -> Tensor:
    """||F_t||^2 of the tensor, [models]."""
    nothing = torch.zeros(len(group.models), dtype=torch.float64)
    if group.statistics is None:
        return nothing
    return nothing + accumulate(lambda _, *parts: torch.stack([part.double().square().sum() for part in parts]), *group.statistics)


FISHER = MergeMethod(
    fisher, base="ignored", statistics="fisher_information", surveys=lambda options: (_squares,) if options.equalize else ()
)
