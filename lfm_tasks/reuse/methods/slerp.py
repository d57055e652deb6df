"""Interpolation on spheres: SLERP, NuSLERP, multi-SLERP. A tensor is one point; its direction and its length both move."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.reuse.blocks import whole
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import MultislerpConfig, NuslerpConfig, SlerpConfig
from lfm_tasks.reuse.methods.gram import combination, gram

PARALLEL = 0.9995
"""|cosine| above which SLERP is linear interpolation."""
SHORT = 1e-8


def slerp(group: Group, options: SlerpConfig) -> Tensor:
    """(sin((1−t)a) theta_1 + sin(t a) theta_2) / sin a, a the angle between the two (Shoemake 1985); linear where nearly parallel."""
    products, t = gram(group, around_base=False), options.t
    first, second = (max(float(square), 0.0) ** 0.5 for square in products.diagonal())
    cosine = float(products[0, 1]) / ((first if first > SHORT else 1.0) * (second if second > SHORT else 1.0))
    if abs(cosine) > PARALLEL:
        return combination(group, [1 - t, t], around_base=False)
    angle = math.acos(cosine)
    return combination(group, [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)], around_base=False)


def nuslerp(group: Group, options: NuslerpConfig) -> Tensor:
    """SLERP at w_2 / (w_1 + w_2), of task vectors where a base is given; over the tensor, or each row or column of it.

    Linear only where the two are parallel to rounding.
    """
    t = options.normalized(2)[1]
    tensors = whole(*group.models, *([] if group.base is None else [group.base]))
    base = 0 if group.base is None else tensors[2]
    first, second = tensors[0] - base, tensors[1] - base
    if options.angle == "tensor" or first.dim() == 0:
        merged = _slerp_last(first.reshape(1, -1), second.reshape(1, -1), t).reshape(first.shape)
    elif options.angle == "row":
        merged = _slerp_last(first, second, t)
    else:
        merged = _slerp_last(first.transpose(0, -1), second.transpose(0, -1), t).transpose(0, -1)
    return (merged + base).to(group.dtype)


def multislerp(group: Group, options: MultislerpConfig) -> Tensor:
    """Weighted tangents at the normalised mean direction, mapped back to the sphere, times the weighted mean length.

    With a base, of the task vectors. Raises :class:`IncompatibleModels` where more than two directions cancel out.
    """
    around_base, weights = group.base is not None, torch.tensor(options.normalized(len(group.models)), dtype=torch.float64)
    products = gram(group, around_base)
    lengths = products.diagonal().clamp(min=0).sqrt()
    if len(group.models) == 1 or not bool(lengths.any()):
        return combination(group, weights.tolist(), around_base)
    per_unit = 1 / (lengths + SHORT)
    units = products * per_unit[:, None] * per_unit
    norm = float((weights @ units @ weights).clamp(min=0).sqrt())
    if norm < SHORT:
        if len(group.models) == 2:
            return combination(group, weights.tolist(), around_base)
        raise IncompatibleModels(
            f"{group.name}: the weighted directions of the models cancel out, so they have no mean. Change the weights."
        )
    mean = weights / norm
    tangent = weights - (weights * (units @ mean)).sum() * mean
    tangent_norm = float((tangent @ units @ tangent).clamp(min=0).sqrt()) + SHORT
    direction = mean * math.cos(tangent_norm) + tangent * (math.sin(tangent_norm) / tangent_norm)
    return combination(group, (direction * per_unit * (weights @ lengths)).tolist(), around_base)


def _slerp_last(first: Tensor, second: Tensor, t: float) -> Tensor:
    """Along the last dimension."""
    unit, other = (x / x.norm(dim=-1, keepdim=True).clamp(min=1e-7) for x in (first, second))
    cosine = (unit * other).sum(-1, keepdim=True).clamp(-1, 1)
    parallel = 1 - cosine.square() <= SHORT**2
    angle = torch.acos(cosine.masked_fill(parallel, 0))
    turned = (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)
    return torch.where(parallel, (1 - t) * first + t * second, turned)


SLERP = MergeMethod(slerp, base="ignored", least=2, most=2)
NUSLERP = MergeMethod(nuslerp, base="optional", least=2, most=2)
MULTISLERP = MergeMethod(multislerp, base="optional")
