"""Small linear systems that turn keys and residuals into a low-rank change of a matrix. Pure tensors in float64; keys are columns.

Every method here is one formula, D = R (K^T F + r I)^-1 F^T, where F says how much a direction may change:

- F = C^-1 K, r = 0: ROME for one key, EMMET for many; D K = R exactly, and ||D K0|| is the least that allows it.
- F = C^-1 K, r = lambda: MEMIT's R K^T (lambda C + K K^T)^-1 by Woodbury's identity.
- F = P K, r = L2: AlphaEdit's R K^T P (K K^T P + L2 I)^-1, P the projector on the null space of preserved keys.

Keys of earlier edits stand before the new ones with residuals of zero: K K^T becomes K_p K_p^T + K K^T, and what they said stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lfm_tasks.errors import DataError

COSINE = 0.7
"""Below it, a key of the bare prompt and the mean of those in context are two keys."""


@dataclass(frozen=True)
class Solution:
    """D = left @ right^T."""

    left: Tensor
    """[d, n]"""
    right: Tensor
    """[d_k, n]"""
    condition: float
    """Of the system that was solved."""

    @property
    def change(self) -> Tensor:
        return self.left @ self.right.T


def solve(residuals: Tensor, keys: Tensor, directions: Tensor, ridge: float, earlier: tuple[Tensor, Tensor] | None = None) -> Solution:
    """R [d, n], K [d_k, n], F [d_k, n]; ``earlier`` (K_p, F_p) [d_k, m]. An (m + n) x (m + n) system.

    Raises :class:`DataError` for keys that cannot be told apart.
    """
    if earlier is not None:
        keys, directions = torch.cat([earlier[0], keys], 1), torch.cat([earlier[1], directions], 1)
    system = keys.T @ directions
    system = (system + system.T) / 2 + ridge * torch.eye(len(system), dtype=system.dtype)
    factor, failed = torch.linalg.cholesky_ex(system)
    condition = spread(system) if not failed else float("inf")
    if failed or not condition < 1e14:
        raise DataError(
            f"The keys of {keys.shape[1]} facts cannot be told apart (condition {condition:.1g}): subjects that are the same, or the same "
            "fact twice. Leave one out, or set a ridge_share above 0."
        )
    right = torch.cholesky_solve(directions.T, factor).T
    return Solution(residuals, right[:, keys.shape[1] - residuals.shape[1] :], condition)


def direct(residuals: Tensor, keys: Tensor, preserved: Tensor) -> Solution:
    """R K^T (M + K K^T)^-1 by a d_k x d_k system: MEMIT for M = lambda C (+ K_p K_p^T). For as many keys as dimensions, or more."""
    system = preserved + keys @ keys.T
    right = torch.cholesky_solve(keys, torch.linalg.cholesky(system))
    return Solution(residuals, right, spread(system))


def spread(system: Tensor) -> float:
    """Condition of a symmetric positive definite matrix; infinite where rounding takes it for singular."""
    values = torch.linalg.eigvalsh(system)
    return float(values[-1] / values[0]) if values[0] > 0 else float("inf")


def strengths(keys: Tensor, directions: Tensor) -> Tensor:
    """q = k^T F of each key, [n]: a ridge of s q writes a lone fact at 1 / (1 + s) of its residual."""
    return (keys * directions).sum(0)


def project(basis: Tensor, keys: Tensor) -> Tensor:
    """P K for the projector P on the columns of ``basis`` [d_k, r], which is never formed."""
    return basis @ (basis.T @ keys)


def kept_energy(keys: Tensor, projected: Tensor) -> float:
    """The share of its energy that P K has left of a key, the median over the keys: one that opens a text may be twenty times as long
    as all others, and lie outside."""
    return float((strengths(keys, projected) / keys.square().sum(0)).median())


def columns(contextual: Tensor, weights: Tensor, two_keys: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Which columns [m] the facts get for their keys [n, contexts, d_k], the bare prompt's first: the fact of each, the weights of its
    contexts [m, contexts]; and cos(bare, mean of the others) of each fact [n].

    A fact has one column, the weighted mean. With ``two_keys``, where the cosine is below ``COSINE``, it has the bare prompt's and the
    mean of the others, which one key could not both be near to.
    """
    count = contextual.shape[1]
    if count == 1:
        return torch.arange(len(contextual)), weights.expand(len(contextual), 1), torch.ones(len(contextual), dtype=contextual.dtype)
    cosine = torch.nn.functional.cosine_similarity(contextual[:, 0], contextual[:, 1:].mean(1), dim=1)
    bare = torch.eye(1, count, dtype=weights.dtype)[0]
    fact: list[int] = []
    mix: list[Tensor] = []
    for place, one in enumerate(cosine.tolist()):
        chosen = [bare, (1 - bare) / (count - 1)] if two_keys and one < COSINE else [weights]
        mix += chosen
        fact += [place] * len(chosen)
    return torch.tensor(fact), torch.stack(mix), cosine


def unlike(keys: Tensor, fact: Tensor, others: Tensor) -> Tensor:
    """Facts whose key in ``others`` [d_k, n] is unlike (cosine < ``COSINE``) each of those that they have among ``keys`` [d_k, m]."""
    cosine = torch.nn.functional.cosine_similarity(keys, others[:, fact], dim=0)
    nearest = cosine.new_full((others.shape[1],), -1.0).scatter_reduce(0, fact, cosine, "amax")
    return (nearest < COSINE).nonzero()[:, 0]


def mixed(contextual: Tensor, fact: Tensor, mix: Tensor) -> Tensor:
    """[n, contexts, width] to the columns [width, m] of :func:`columns`."""
    return (contextual[fact] * mix[..., None]).sum(1).T
