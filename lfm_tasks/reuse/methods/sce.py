"""SCE (Wan et al. 2024, FuseChat): select where the models vary, weigh them by energy, erase minority signs."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import accumulate, blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.magnitudes import COARSE, FINE, coarse, coarse_bin, counted, fine, threshold
from lfm_tasks.reuse.methods.config import SceConfig


def sce(group: Group, options: SceConfig) -> Tensor:
    """theta_0 + sum_i q_i m_i tau_i / sum_i q_i m_i; q_i the share of tau_i's selected energy, m_i the agreement with the sum's sign."""
    least = selection(group, options.density)
    energy = accumulate(lambda _, *parts: _selected(parts, least).square().sum(1), group.base, *group.models)
    energy = energy + torch.zeros(len(group.models), dtype=torch.float64)
    total = float(energy.sum())
    share = energy / total if total / max(1, group.base.numel()) >= 1e-6 else torch.full_like(energy, 1 / len(energy))

    def merge(_: slice, *parts: Tensor) -> Tensor:
        deltas = _selected(parts, least)
        sign = torch.where(deltas.sum(0) >= 0, 1.0, -1.0).to(deltas.dtype)
        weights = share.to(deltas.dtype)[:, None] * (deltas.sign() == sign)
        return parts[0] + (weights * deltas).sum(0) / weights.sum(0).clamp(min=1e-6)

    return blockwise(merge, group.base, *group.models, dtype=group.dtype)


def selection(group: Group, density: float) -> float | None:
    """The variance from which on an element is selected: int(density * N) of the N that vary at all; None selects all."""
    if density == 1:
        return None
    tensors = (group.base, *group.models)
    counts = counted(lambda *parts: coarse(_variance(parts)), COARSE, *tensors)
    rank = int(density * int(accumulate(lambda _, *parts: (_variance(parts) > 0).sum(), *tensors)))
    if not rank:
        return float("inf")
    place, within = coarse_bin(counts, rank)
    return threshold(place, counted(lambda *parts: fine(_variance(parts), place), FINE, *tensors), within)


def _variance(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.var(torch.stack(parts[1:]) - parts[0], dim=0, unbiased=False).float()


def _selected(parts: tuple[Tensor, ...], least: float | None) -> Tensor:
    """Task vectors [models, block], zero where they vary less than ``least``."""
    deltas = torch.stack(parts[1:]) - parts[0]
    return deltas if least is None else deltas * (torch.var(deltas, dim=0, unbiased=False).float() >= least)


SCE = MergeMethod(sce, base="required")
