"""What a student can learn from a teacher that cuts text into other tokens."""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 100.0
"""At which the authors of ALM compare likelihoods of chunks."""


def chunk_log_likelihoods(log_likelihoods: Tensor, chunks: Tensor, count: int) -> Tensor:
    """Sums ``[count]`` of the tokens' ``[tokens]`` over each chunk: by the chain rule, the log-probability of its text after all before."""
    return log_likelihoods.new_zeros(count).index_add(0, chunks, log_likelihoods)


def likelihood_matching(log_q: Tensor, log_p: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """``[chunks]``: T times the KL divergence of "this chunk or another" under the teacher from that under the student, with
    p ** (1 / T) and q ** (1 / T) for the probabilities. Minixhofer et al. 2025, ALM (arXiv 2503.20083).

    For large T it goes to x log(x / y) - x + y of the surprisals x = -log p and y = -log q, which all chunks enter with, likely or not.
    A chunk that is certain has the surprisal 1e-6.
    """
    teacher, student = (-one.clamp_max(-1e-6) / temperature for one in (log_p, log_q))
    p, log_not_p, log_not_q = (-teacher).exp(), _log1mexp(teacher), _log1mexp(student)
    return temperature * (p * (student - teacher) + (-torch.expm1(-teacher)) * (log_not_p - log_not_q))


def sorted_distance(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``[places]``: sum of |p_(i) - q_(i)| over the ranks i, the smaller vocabulary filled up with zeros; from 0 to 2.

    Boizard et al. 2024, ULD (arXiv 2402.12030): the Wasserstein distance where any two tokens are equally far apart. It
    does not see which token has which probability.
    """
    q, p = (one.exp().sort(dim=-1, descending=True).values for one in (log_q, log_p))
    width = max(q.shape[-1], p.shape[-1])
    q, p = (torch.nn.functional.pad(one, (0, width - one.shape[-1])) for one in (q, p))
    return (p - q).abs().sum(-1)


def shared_and_rest(log_probabilities: Tensor, shared: Tensor) -> Tensor:
    """``[places, shared + 1]``: log-probabilities of the tokens that both have, in one order, and of all others together.

    With the rest as an outcome of its own a student loses nothing for tokens that the teacher has not: only their sum is compared.
    """
    kept = log_probabilities[..., shared]
    rest = (-torch.expm1(torch.logsumexp(kept, -1, keepdim=True).clamp_max(-1e-7))).log()
    return torch.cat([kept, rest], -1)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0, exact for small and for large x."""
    small = x < 0.6931
    near = torch.where(small, x, torch.ones_like(x))
    far = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, (-torch.expm1(-near)).log(), torch.log1p(-(-far).exp()))
