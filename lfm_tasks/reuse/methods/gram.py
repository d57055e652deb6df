"""Points and task vectors by their inner products: angles in one pass over the tensors, the combination in a second."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import accumulate, blockwise
from lfm_tasks.reuse.group import Group


def gram(group: Group, around_base: bool) -> Tensor:
    """Inner products of the flattened models, or of their task vectors; float64 [models, models]."""

    def products(_: slice, *parts: Tensor) -> Tensor:
        points = [part.double() for part in parts]
        vectors = [point - points[0] for point in points[1:]] if around_base else points
        upper = {(i, j): torch.dot(vectors[i], vectors[j]) for i in range(models) for j in range(i, models)}
        return torch.stack([upper[min(i, j), max(i, j)] for i in range(models) for j in range(models)]).view(models, models)

    models = len(group.models)
    return accumulate(products, *_tensors(group, around_base)) + torch.zeros(models, models, dtype=torch.float64)


def combination(group: Group, coefficients: Sequence[float], around_base: bool) -> Tensor:
    """sum_i c_i theta_i, or theta_0 + sum_i c_i tau_i."""

    def add(_: slice, *parts: Tensor) -> Tensor:
        base, vectors = (parts[0], [part - parts[0] for part in parts[1:]]) if around_base else (None, parts)
        total = vectors[0] * coefficients[0]
        for vector, coefficient in zip(vectors[1:], coefficients[1:], strict=True):
            total.add_(vector, alpha=coefficient)
        return total if base is None else total.add_(base)

    return blockwise(add, *_tensors(group, around_base), dtype=group.dtype)


def _tensors(group: Group, around_base: bool) -> tuple[Tensor, ...]:
    return (group.base, *group.models) if around_base else group.models
