"""Consensus task arithmetic by TALL masks (Wang et al. 2024): keep what at least so many tasks need."""

from __future__ import annotations

from torch import Tensor

from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.blocks import blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import ConsensusConfig


def consensus(group: Group, options: ConsensusConfig) -> Tensor:
    """theta_0 + scale * tau * [sum_i m_i >= agreement], tau = sum_i tau_i, m_i = [|tau_i| >= selectivity * |tau − tau_i|]."""
    if options.agreement > len(group.models):
        raise ConfigError(f"agreement={options.agreement}: only {len(group.models)} models are merged. Ask for at most so many.")

    def merge(_: slice, base: Tensor, *models: Tensor) -> Tensor:
        deltas = [model - base for model in models]
        total = sum(deltas[1:], deltas[0])
        needed = sum((delta.abs() >= options.selectivity * (total - delta).abs()).int() for delta in deltas)
        return base + options.scale * total * (needed >= options.agreement)

    return blockwise(merge, group.base, *group.models, dtype=group.dtype)


CONSENSUS = MergeMethod(consensus, base="required", least=2)
