"""EMR-Merging (Huang et al. 2024): elect a unified task vector; mask and rescale it for one task."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.blocks import accumulate, blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import EmrConfig
from lfm_tasks.reuse.methods.task_vectors import combine_deltas


def emr(group: Group, options: EmrConfig) -> Tensor:
    """theta_0 + tau, the unified vector; or theta_0 + l_t m_t tau of task t, m_t where the signs agree, l_t one factor per model."""
    factor = _factor(group.surveyed[0]) if options.task else 1.0

    def merge(_: slice, base: Tensor, *models: Tensor) -> Tensor:
        deltas = [model - base for model in models]
        unified = elected(deltas)
        if options.task:
            unified = unified * (deltas[options.task - 1] * unified > 0) * factor
        return base + unified

    return blockwise(merge, group.base, *group.models, dtype=group.dtype)


def elected(deltas: list[Tensor]) -> Tensor:
    """The sign of the sum, with the largest magnitude of those that have it."""
    return combine_deltas(deltas, [1.0] * len(deltas), elect="sum", combine="max")


def _masses(group: Group, options: EmrConfig) -> Tensor:
    """[sum |tau_t|, sum |m_t tau|]; raises :class:`ConfigError` where there is no such task."""
    if options.task > len(group.models):
        raise ConfigError(f"task={options.task}: only {len(group.models)} models are merged. Give the number of one of them, or 0.")

    def masses(_: slice, base: Tensor, *models: Tensor) -> Tensor:
        deltas = [model - base for model in models]
        unified, own = elected(deltas), deltas[options.task - 1]
        return torch.stack([own.abs().sum(), (unified * (own * unified > 0)).abs().sum()])

    return accumulate(masses, group.base, *group.models) + torch.zeros(2, dtype=torch.float64)


def _factor(masses: Tensor) -> float:
    own, shared = masses.tolist()
    return own / shared if shared else 1.0


EMR = MergeMethod(emr, base="required", surveys=lambda options: (_masses,) if options.task else ())
