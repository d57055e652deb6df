"""What is taken off a change after it was solved for. Pure tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def rect(change: Tensor, weight: Tensor, keep: float) -> Tensor:
    """Zero all but the share ``keep`` of the entries of D, by |D / W| (Gu et al. 2024, RECT, arXiv 2401.04700)."""
    relative = (change / (weight + 1e-8)).abs().flatten()
    count = max(1, round(keep * relative.numel()))
    kept = torch.zeros_like(relative, dtype=torch.bool)
    kept[relative.topk(count).indices] = True
    return change * kept.view_as(change)


def prune(left: Tensor, right: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """What to add to the sum of all changes, D = left @ right^T, so that its singular values s above ``largest``, that of the unedited
    weight, become ``largest`` + log s - log ``largest`` (Ma et al. 2024, PRUNE, arXiv 2405.16821). Factors; of no columns where none is.
    """
    u, s, v = low_rank_svd(left, right)
    over = s > largest
    capped = largest + (s[over] / largest).log()
    return u[:, over] * (capped - s[over]), v[:, over]


def low_rank_svd(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [d, r], S [r], V [d_k, r] of left @ right^T; the product is never formed."""
    q, r = torch.linalg.qr(left)
    p, t = torch.linalg.qr(right)
    u, s, vh = torch.linalg.svd(r @ t.T, full_matrices=False)
    return q @ u, s, p @ vh.T
