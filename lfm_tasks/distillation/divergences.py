"""Distances between what a student and its teacher say, one library under all trainers.

P is the teacher, Q the student; ``log_q`` and ``log_p`` are log-probabilities ``[n, classes]`` at one temperature, of
:func:`log_probabilities`; every kernel gives ``[n]``, in nats. Nothing here shifts, masks or averages: rows are the places
that are learned from, and the mean is taken over all those of an optimiser step. A loss at the temperature T is T**2 times
its kernel (:func:`scaled`), so that its gradients by the logits keep their size (Hinton et al. 2015, arXiv 1503.02531).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEVER = -1e4
"""Log-probability of what a model rules out (a logit of -inf): its probability is exactly 0, and 0 * NEVER too."""


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(z / T) over the last dimension, in float32 or, of float64, in float64; under autocast too."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_p = torch.log_softmax(wide / temperature, dim=-1)
    return log_p.masked_fill(log_p == -math.inf, NEVER)


def scaled(divergence: Tensor, temperature: float) -> Tensor:
    return divergence * temperature**2


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(P || Q): mass where the teacher has it. Its gradient by the student's logits at T, scaled, is T (q - p)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(Q || P): no mass where the teacher has none."""
    return forward_kl(log_p, log_q)


def jsd(log_q: Tensor, log_p: Tensor, beta: float, *, normalised: bool = False) -> Tensor:
    """Generalised Jensen-Shannon divergence b KL(P || M) + (1 - b) KL(Q || M), M = b P + (1 - b) Q, 0 < b < 1.

    Agarwal et al. 2024 (arXiv 2306.13649), equation 2. It goes to 0 with b: D / b goes to KL(P || Q) as b goes to 0, and
    D / (1 - b) to KL(Q || P) as b goes to 1. ``normalised`` divides by b (1 - b), which has both limits, taken at 0 and 1.
    """
    if normalised and beta in (0.0, 1.0):
        return reverse_kl(log_q, log_p) if beta else forward_kl(log_q, log_p)
    log_m = mixture(log_p, log_q, beta)
    divergence = beta * forward_kl(log_m, log_p) + (1 - beta) * forward_kl(log_m, log_q)
    return divergence / (beta * (1 - beta)) if normalised else divergence


def skew_kl(log_q: Tensor, log_p: Tensor, skew: float) -> Tensor:
    """KL(P || a P + (1 - a) Q), at most log(1 / a). Ko et al. 2024, DistiLLM (arXiv 2402.03898), equation 3."""
    return forward_kl(mixture(log_p, log_q, skew), log_p)


def skew_reverse_kl(log_q: Tensor, log_p: Tensor, skew: float) -> Tensor:
    """KL(Q || (1 - a) P + a Q), at most log(1 / a)."""
    return forward_kl(mixture(log_q, log_p, skew), log_q)


def total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Half the sum of |p - q|, from 0 to 1. Wen et al. 2023, f-DISTILL (arXiv 2307.15190)."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def logit_mse(log_q: Tensor, log_p: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over the classes of the squared difference of logits, each without its mean: half of it over T**2 is what scaled
    KL goes to as T grows, times the classes. Ba and Caruana 2014 (arXiv 1312.6184)."""
    difference = log_q - log_p
    return ((difference - difference.mean(-1, keepdim=True)) * temperature).square().mean(-1)


def decoupled(log_q: Tensor, log_p: Tensor, targets: Tensor, target_weight: float, other_weight: float) -> Tensor:
    """a TCKD + b NCKD: KL of (target, all others), and KL among the others. Zhao et al. 2022 (arXiv 2203.08679), equation 7.

    With a = 1 and b = 1 - p(target) it is KL(P || Q).
    """
    (target_q, others_q), (target_p, others_p) = (_split_off(one, targets) for one in (log_q, log_p))
    rest_q, rest_p = (torch.logsumexp(one, -1, keepdim=True) for one in (others_q, others_p))
    between = forward_kl(torch.cat([target_q, rest_q], -1), torch.cat([target_p, rest_p], -1))
    return target_weight * between + other_weight * forward_kl(others_q - rest_q, others_p - rest_p)


def dist(log_q: Tensor, log_p: Tensor, inter: float, intra: float) -> Tensor:
    """b (1 - mean correlation of each row's classes) + c (1 - mean correlation of each class over the rows).

    Huang et al. 2022, DIST (arXiv 2205.10536), equations 8 and 9: the second part needs all rows of a step at once.
    """
    q, p = log_q.exp(), log_p.exp()
    across = (1 - correlation(q.T, p.T)).mean() if intra and len(q) > 1 else torch.zeros((), dtype=q.dtype, device=q.device)
    return inter * (1 - correlation(q, p)) + intra * across


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's, over the last dimension; of a constant 0."""
    x, y = (one - one.mean(-1, keepdim=True) for one in (x, y))
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1)).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)


def standardised(logits: Tensor) -> Tensor:
    """(z - mean) / standard deviation of each row. Sun et al. 2024, Logit Standardization (arXiv 2403.01427), equation 9."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide - wide.mean(-1, keepdim=True)) / (wide.std(-1, correction=0, keepdim=True) + 1e-7)


def mixture(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """log(w a + (1 - w) b), 0 < w < 1."""
    return torch.logaddexp(log_a + math.log(weight), log_b + math.log1p(-weight))


def entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


def _split_off(log_p: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 1] of the targets, and [n, classes - 1] of the others, in their order."""
    chosen = torch.zeros_like(log_p, dtype=torch.bool).scatter_(-1, targets[:, None], True)
    return log_p[chosen][:, None], log_p[~chosen].view(len(log_p), -1)
