"""Distances between what goes on inside two models, for each place of each row: ``[batch, length]``.

``allowed`` ``[batch, 1, length, length]`` says which keys (last axis) a query may look at: no padding, and in a decoder none that
comes after it. Rows of padded queries are for the caller to leave out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lfm_tasks.distillation.divergences import forward_kl, log_probabilities
from lfm_tasks.models.attention import Attended


def allowed_keys(valid: Tensor, *, causal: bool) -> Tensor:
    """``[batch, 1, length, length]`` of ``valid`` ``[batch, length]``; a place sees itself always."""
    length = valid.shape[1]
    allowed = valid[:, None, None, :].expand(-1, 1, length, -1)
    if causal:
        allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    return allowed | torch.eye(length, dtype=torch.bool, device=valid.device)


def scores(attended: Attended) -> Tensor:
    """Q K^T times the model's scaling, before the softmax: ``[batch, heads, length, length]``."""
    return _wide(attended.query) @ _wide(attended.key).transpose(-1, -2) * attended.scaling


def relation(states: Tensor, heads: int = 0) -> Tensor:
    """X X^T / sqrt(d) of ``[batch, heads, length, d]``; with ``heads``, of the same numbers cut into so many heads.

    Wang et al. 2020, MiniLM (arXiv 2002.10957), equation 4; Wang et al. 2021, MiniLMv2 (arXiv 2012.15828), section 3.1.
    """
    if heads:
        together = states.transpose(1, 2).flatten(2)
        states = together.unflatten(-1, (heads, -1)).transpose(1, 2)
    wide = _wide(states)
    return wide @ wide.transpose(-1, -2) * states.shape[-1] ** -0.5


def row_kl(student: Tensor, teacher: Tensor, allowed: Tensor) -> Tensor:
    """Mean over the heads of KL(softmax of the teacher's row || of the student's), over the allowed keys."""
    log_q, log_p = (log_probabilities(one.masked_fill(~allowed, -torch.inf)) for one in (student, teacher))
    return forward_kl(log_q, log_p).mean(1)


def score_mse(student: Tensor, teacher: Tensor, allowed: Tensor) -> Tensor:
    """Mean over heads and allowed keys of the squared difference of scores. Jiao et al. 2020, TinyBERT (arXiv 1909.10351), eq. 7."""
    squared = (student - teacher).square().masked_fill(~allowed, 0.0)
    return squared.sum(-1).mean(1) / allowed.sum(-1)[:, 0]


def state_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the width of ``[batch, length, width]``. TinyBERT, equation 8."""
    return (_wide(student) - _wide(teacher)).square().mean(-1)


def state_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(_wide(student), _wide(teacher), dim=-1)


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()
