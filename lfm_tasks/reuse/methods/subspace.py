"""Matrices merged by their singular vectors: TSV-M, ISO-C, ISO-CTS. Other tensors get the mean task vector."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import whole
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import IsoCConfig, IsoCtsConfig, TsvConfig


def tsv_m(group: Group, options: TsvConfig) -> Tensor:
    """Each task's leading 1/T of singular triplets; their left and right vectors made orthogonal together (Gargiulo et al. 2025)."""
    base, deltas = task_matrices(group)
    if not is_matrix(base):
        return add_mean(group, base, deltas, options.scale)
    rank = max(1, min(base.shape) // len(deltas))
    parts = [_leading(delta, rank) for delta in deltas]
    merged = (_orthogonal(torch.cat([u for u, _, _ in parts], 1)) * torch.cat([s for _, s, _ in parts])) @ _orthogonal(
        torch.cat([v for _, _, v in parts], 0)
    )
    return (base + options.scale * merged).to(group.dtype)


def iso_c(group: Group, options: IsoCConfig) -> Tensor:
    """The sum of the task vectors with all its singular values made their mean (Marczak et al. 2025)."""
    base, deltas = task_matrices(group)
    if not is_matrix(base):
        return add_mean(group, base, deltas, options.scale)
    u, s, v = _svd(sum(deltas[1:], deltas[0]))
    return (base + options.scale * s.mean() * (u @ v)).to(group.dtype)


def iso_cts(group: Group, options: IsoCtsConfig) -> Tensor:
    """ISO-C on ``common`` leading directions of the sum, and on the leading ones of what each task has beside them."""
    base, deltas = task_matrices(group)
    if not is_matrix(base):
        return add_mean(group, base, deltas, options.scale)
    tasks, rank = len(deltas), min(base.shape)
    own = (rank - int(options.common * rank)) // tasks
    common = _leading(sum(deltas[1:], deltas[0]), rank - own * tasks)
    parts = [common] + [_leading(delta - common[0] @ (common[0].T @ delta), own) for delta in deltas]
    u, v = _orthogonal(torch.cat([u for u, _, _ in parts], 1)), _orthogonal(torch.cat([v for _, _, v in parts], 0))
    scale = options.scale * torch.cat([s for _, s, _ in parts]).mean()
    return (base + scale * (u @ v)).to(group.dtype)


def task_matrices(group: Group) -> tuple[Tensor, list[Tensor]]:
    base, *models = whole(group.base, *group.models)
    return base, [model - base for model in models]


def is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and min(tensor.shape) > 1


def add_mean(group: Group, base: Tensor, deltas: list[Tensor], scale: float = 1.0) -> Tensor:
    return (base + scale * sum(deltas[1:], deltas[0]) / len(deltas)).to(group.dtype)


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(matrix, full_matrices=False)


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U [m, rank], S [rank], V [rank, n]."""
    u, s, v = _svd(matrix)
    return u[:, :rank], s[:rank], v[:rank]


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns, or rows (Procrustes)."""
    u, _, v = _svd(matrix)
    return u @ v


TSV_M = MergeMethod(tsv_m, base="required")
ISO_C = MergeMethod(iso_c, base="required")
ISO_CTS = MergeMethod(iso_cts, base="required")
