"""The Karcher (Fréchet) mean of the models' directions, times their mean length (Afsari 2011)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import KarcherConfig
from lfm_tasks.reuse.methods.gram import combination, gram


def karcher(group: Group, options: KarcherConfig) -> Tensor:
    """Every iterate is a combination of the models' directions, so the search needs their inner products alone."""
    weights = torch.tensor(options.normalized(len(group.models)), dtype=torch.float64)
    products = gram(group, around_base=False)
    lengths = products.diagonal().clamp(min=0).sqrt()
    present = lengths > options.tolerance
    if not bool(present.any()):
        return combination(group, [0.0] * len(group.models), around_base=False)
    per_unit = torch.where(present, 1 / lengths, 0.0)
    shares = weights * present / (weights * present).sum()
    mean = karcher_mean(products * per_unit[:, None] * per_unit, shares, options.iterations, options.tolerance)
    return combination(group, (mean * per_unit * (weights @ lengths)).tolist(), around_base=False)


def karcher_mean(units: Tensor, shares: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Coefficients, on unit vectors with inner products ``units``, of the unit vector that minimises the weighted squared angles."""

    def norm(coefficients: Tensor) -> float:
        return float((coefficients @ units @ coefficients).clamp(min=0).sqrt())

    mean = shares.clone()
    if (length := norm(mean)) < tolerance:
        mean = torch.zeros_like(shares)
        mean[int(shares.argmax())] = 1.0
    else:
        mean /= length
    for _ in range(iterations):
        cosines = (units @ mean).clamp(-1, 1)
        angles = torch.acos(cosines)
        pull = torch.where(angles < tolerance, 0.0, shares * angles / torch.sin(angles))
        tangent = pull - (pull * cosines).sum() * mean
        if (step := norm(tangent)) < tolerance:
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        mean /= norm(mean)
    return mean


KARCHER = MergeMethod(karcher, base="ignored")
