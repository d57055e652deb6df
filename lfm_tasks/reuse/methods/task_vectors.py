"""Task vectors tau_i = theta_i − theta_0: made sparse, their signs elected, combined, added to the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import accumulate, blockwise
from lfm_tasks.reuse.group import Group
from lfm_tasks.reuse.methods.config import Combine, Elect

Sparsify = Callable[[slice, Tensor], Tensor]
"""What is left of a block of a task vector; blocks come in order."""


def merge_task_vectors(
    group: Group,
    weights: Sequence[float],
    scale: float,
    sparsify: Sequence[Sparsify] = (),
    elect: Elect | None = None,
    combine: Combine = "sum",
    row: int = 1,
) -> Tensor:
    """theta_0 + scale * (what :func:`combine_deltas` makes of the task vectors)."""

    def merge(span: slice, base: Tensor, *models: Tensor) -> Tensor:
        deltas = [model - base for model in models]
        if sparsify:
            deltas = [sparse(span, delta) for sparse, delta in zip(sparsify, deltas, strict=True)]
        return torch.add(base, combine_deltas(deltas, weights, elect, combine), alpha=scale)

    return blockwise(merge, group.base, *group.models, dtype=group.dtype, row=row)


def combine_deltas(deltas: Sequence[Tensor], weights: Sequence[float], elect: Elect | None, combine: Combine) -> Tensor:
    """The weighted sum; or, with an election, the ``combine`` of those elements whose sign won. A vote of zero counts as plus.

    mean: sum w tau / sum w over the winners, the sum alone where their weights cancel; count: sum w tau / how many they are; sum:
    sum w tau; max: the largest |tau| with the winning sign.
    """
    weighted = [delta if weight == 1 else delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    if elect is None:
        return _sum(weighted)
    voters = weighted if elect == "weighted" else deltas
    votes = [delta.sign() for delta in deltas] if elect == "votes" else voters
    sign = torch.ones_like(deltas[0]).copysign_(_sum(votes).add_(0.0))  # -0 + 0 is +0
    wins = [(voter * sign).clamp_(min=0) for voter in voters]  # the magnitude where the sign won, else 0
    if combine == "max":
        return sign * torch.stack([delta.abs() * win.sign_() for delta, win in zip(deltas, wins, strict=True)]).amax(0)
    total, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for win, weight in zip(wins, weights, strict=True):
        total.add_(win, alpha=1 if elect == "weighted" else weight)
        if combine != "sum":
            divisor.add_(win.sign_(), alpha=weight if combine == "mean" else 1)
    total.mul_(sign)
    if combine == "sum":
        return total
    if (least := 1 if combine == "count" else min(weights)) > 0:  # where nobody won, the divisor is 0 and so is the total
        return total.div_(divisor.clamp_(min=least))
    return total.div_(divisor.masked_fill_(divisor.abs() <= 1e-6 * max(map(abs, weights)), 1))


def l1_factors(group: Group, sparsify: Sequence[Sparsify], row: int = 1) -> list[float]:
    """What gives each sparse task vector the L1 norm of the whole one; 1 where nothing is left."""

    def norms(span: slice, base: Tensor, *models: Tensor) -> Tensor:
        deltas = [model - base for model in models]
        before = [delta.abs().sum() for delta in deltas]
        return torch.stack([*before, *(sparse(span, delta).abs().sum() for sparse, delta in zip(sparsify, deltas, strict=True))])

    found = accumulate(norms, group.base, *group.models, row=row) + torch.zeros(2 * len(sparsify), dtype=torch.float64)
    return [float(whole / left) if whole > 1e-7 and left > 1e-7 else 1.0 for whole, left in zip(*found.view(2, -1), strict=True)]


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """A tensor of its own."""
    if len(parts) == 1:
        return parts[0].clone()
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total
