"""The reverse KL between whole sequences, as a loss whose gradient over samples is right (Gu et al. 2024, MiniLLM, arXiv 2306.08543).

For y drawn from the student q, of at most L tokens, and the teacher p, the gradient of KL(q || p) is

    E[ sum_t grad KL_t ]  -  E[ sum_t R_{t+1} grad log q(y_t | y_<t) ],   R_{t+1} = sum_{j > t} r_j,   r_j = log p(y_j) - log q(y_j)

with KL_t the divergence of the two distributions of the token t (note t + 1: the token's own part is in KL_t already).
Given y_<j the mean of r_j is -KL_j, which is known whole, so that it stands for r_j here: the same expectation, less variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lfm_tasks.distillation.divergences import log_probabilities, reverse_kl


@dataclass(frozen=True)
class Rollouts:
    """Sampled sequences, padded on the right: what follows the first stop token, or the length's end, is no part of them."""

    tokens: Tensor
    """``[batch, length]``, drawn one after another; the stop token is the last one that counts."""
    mask: Tensor
    """``[batch, length]``, True where a token counts."""
    log_sampler: Tensor | None = None
    """``[batch, length]``, log-probability of each token under what drew it; None: the student as it is now."""


def reverse_kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, rollouts: Rollouts, *, length_normalised: bool = False, per_token_weights: bool = False
) -> Tensor:
    """``[batch]``: a loss whose gradient, on average over rollouts, is that of the reverse KL of sequences, in nats.

    Logits are ``[batch, length, vocabulary]``, at the places that predict ``rollouts.tokens``. Where another distribution than the
    student drew them (a mixture with the teacher, an earlier student), each term is weighted by the ratio of the two for all the
    tokens that it depends on, which leaves the expectation as it is. ``per_token_weights`` weights by the ratio of one token
    instead, as the authors do: bounded, and biased. ``length_normalised`` divides R by the number of the tokens that it sums over, as
    the authors do to favour no length: another objective.
    """
    log_q, log_p = log_probabilities(student_logits), log_probabilities(teacher_logits)
    mask = rollouts.mask.to(log_q.dtype)
    chosen = log_q.gather(-1, rollouts.tokens[..., None])[..., 0]
    here = reverse_kl(log_q, log_p) * mask
    before, with_own = _weights(chosen.detach(), rollouts, mask, per_token=per_token_weights)
    rewards = -(before * here).detach()
    after = rewards.flip(-1).cumsum(-1).flip(-1) - rewards
    if length_normalised:
        after = after / (mask.flip(-1).cumsum(-1).flip(-1) - mask).clamp_min(1)
    lead = with_own if per_token_weights else torch.ones_like(with_own)
    return (before * here - lead * after * chosen * mask).sum(-1)


def _weights(log_q: Tensor, rollouts: Rollouts, mask: Tensor, *, per_token: bool) -> tuple[Tensor, Tensor]:
    """Ratio of student and sampler for the tokens before each place, and for those up to it."""
    if rollouts.log_sampler is None:
        return torch.ones_like(mask), torch.ones_like(mask)
    log_ratio = (log_q - rollouts.log_sampler.to(log_q.dtype)) * mask
    if per_token:
        return torch.ones_like(mask), log_ratio.exp()
    up_to = log_ratio.cumsum(-1)
    return (up_to - log_ratio).exp(), up_to.exp()
