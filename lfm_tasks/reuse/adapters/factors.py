"""A change of low rank as two factors, and its best approximations of a smaller rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """``up`` [out, rank] times ``down`` [rank, in], scaling included."""

    down: Tensor
    up: Tensor
    kept: float = 1.0
    """Share of the squared norm that a truncation left."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def product(self) -> Tensor:
        return self.up @ self.down


def factorised(matrix: Tensor, rank: int) -> Factors:
    """The best approximation of the rank, its singular values shared by both factors."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    total = float(s.square().sum())
    share = float(s[:rank].square().sum()) / total if total else 1.0
    return Factors(root[:, None] * v[:rank], u[:, :rank] * root, share)


def truncated(factors: Factors, rank: int) -> Factors:
    """As :func:`factorised` of their product, by decompositions of the size of their rank; themselves where that is no larger."""
    if factors.rank <= rank:
        return factors
    left, up = torch.linalg.qr(factors.up)
    right, down = torch.linalg.qr(factors.down.T)
    core = factorised(up @ down.T, rank)
    return Factors(core.down @ right.T, left @ core.up, core.kept)


def side_by_side(parts: list[Factors]) -> Factors:
    """The exact sum. The ranks add up."""
    return Factors(torch.cat([one.down for one in parts]), torch.cat([one.up for one in parts], 1))


def shared_directions(parts: list[Factors]) -> tuple[Tensor, list[Tensor]]:
    """U [out, r] and each S V_i [r, in] of [B_1 A_1, B_2 A_2, …] = U S [V_1, V_2, …], r the rank of the whole.

    The decomposition is of the size of the summed ranks: the columns lie in the span of the B_i.
    """
    basis, shares = torch.linalg.qr(torch.cat([one.up for one in parts], 1))
    ranks = [one.rank for one in parts]
    u, s, v = torch.linalg.svd(
        torch.cat([share @ one.down for share, one in zip(shares.split(ranks, 1), parts, strict=True)], 1), full_matrices=False
    )
    rank = max(1, int((s > s[0] * max(v.shape) * torch.finfo(s.dtype).eps).sum()))
    width = parts[0].down.shape[1]
    return basis @ u[:, :rank], [part.contiguous() for part in (s[:rank, None] * v[:rank]).split(width, 1)]
