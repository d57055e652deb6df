"""RegMean (Jin et al. 2023): the linear layer whose outputs are nearest to those of each model's own layer on its own inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lfm_tasks.errors import InvalidInput
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import RegmeanConfig
from lfm_tasks.reuse.methods.linear import weighted_sum


def regmean(group: Group, options: RegmeanConfig) -> Tensor:
    """:func:`nearest` for linear layers; the mean for everything else."""
    if group.statistics is None:
        return weighted_sum(group, [1 / len(group.models)] * len(group.models))
    return nearest(group.name, group.models, group.statistics, group.input_axis, options).to(group.dtype)


def nearest(name: str, weights: Sequence[Tensor], grams: Sequence[Tensor], input_axis: int, options: RegmeanConfig) -> Tensor:
    """argmin_W sum_t tr((W − W_t) G_t (W − W_t)^T), in float64: W − M = (sum_t (W_t − M) G_t) (sum_t G_t)^-1 around the mean M.

    G_t is the Gram matrix with its off-diagonal elements times ``reduction`` and ``ridge`` times the mean of all diagonals on its own.
    An input that no model ever has gets weight 1 from each, which gives the mean. Two matrices are held for any number of models.
    Raises :class:`InvalidInput` that names the tensor where the sum is singular.
    """
    matrices = [weight.double() if input_axis == 1 else weight.double().T for weight in weights]
    mean = sum(matrices[1:], matrices[0]) / len(matrices)
    diagonal = sum(gram.diagonal().double() for gram in grams)
    added = torch.where(diagonal > 0, options.ridge * diagonal.mean() / len(grams), 1.0)
    target, total = torch.zeros_like(mean), torch.zeros(len(diagonal), len(diagonal), dtype=torch.float64)
    for matrix, gram in zip(matrices, grams, strict=True):
        reduced = gram.double() * options.reduction
        reduced.diagonal().copy_(gram.diagonal().double() + added)
        target += (matrix - mean) @ reduced
        total += reduced
    factor = _factor(total)
    if factor is None:
        raise InvalidInput(
            f"{name}: the Gram matrices together are singular with ridge={options.ridge:g} and reduction={options.reduction:g}. "
            "Set a ridge of 1e-6, a smaller reduction, or take more rows."
        )
    solved = mean + torch.cholesky_solve(target.T, factor).T
    return solved if input_axis == 1 else solved.T


def _factor(matrix: Tensor) -> Tensor | None:
    """Of Cholesky; None for a singular matrix, also where rounding alone lets it end: a pivot is nothing beside its diagonal element."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    left = factor.diagonal().square() / matrix.diagonal()
    return None if failed or bool((left < len(matrix) * torch.finfo(matrix.dtype).eps).any()) else factor


REGMEAN = MergeMethod(regmean, base="ignored", statistics="gram")
