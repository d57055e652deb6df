"""The reverse KL between whole sequences, as a loss whose gradient over samples is right (Gu et al. 2024, MiniLLM, arXiv 2306.08543).

For y drawn from the student q, of at most L tokens, and the teacher p, the gradient of KL(q || p) is

    E[ sum_t grad KL_t ]  -  E[ sum_t R_{t+1} grad log q(y_t | y_<t) ],   R_{t+1} = sum_{j > t} r_j,   r_j = log p(y_j) - log q(y_j)

with KL_t the divergence of the two distributions of the token t (note t + 1: the token's own part is in KL_t already). Given y_<j the
mean of r_j is -KL_j, which is known whole, so that it stands for r_j here: the same expectation, less variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """The loss of a rollout is the sum over its tokens of ``single * KL_t - long * log q(y_t)``; all ``[batch, length]``, constants."""

    single: Tensor
    long: Tensor
    to_come: Tensor
    """R, whose mean over earlier rollouts is a good baseline."""


def coefficients(
    kl: Tensor,
    log_q: Tensor,
    mask: Tensor,
    log_sampler: Tensor | None = None,
    baseline: Tensor | None = None,
    *,
    length_normalised: bool = False,
    per_token_weights: bool = False,
) -> Coefficients:
    """With which the loss's gradient is, on average over rollouts, that of the reverse KL of sequences.

    :param kl: KL(q || p) of the distributions of each token, ``[batch, length]``, in nats.
    :param log_q: log-probability of each token of the rollout under the student, ``[batch, length]``.
    :param mask: 1 where a token counts: up to the first stop token, and with it.
    :param log_sampler: the tokens' log-probabilities under what drew them; None: the student as it is now. Where another distribution
        drew them (a mixture with the teacher, an earlier student), each term is weighted by the ratio of the two for all the tokens
        that it depends on, which leaves the expectation as it is.
    :param baseline: ``[length]``, taken from R at each place. Of anything but these rollouts it changes no mean; where it is near R's mean
        the gradient varies less (Williams 1992).
    :param per_token_weights: weight by the ratio of the one token, as the authors do: bounded, and biased.
    :param length_normalised: divide R by the number of the tokens that it sums over, as the authors do to favour no length: another
        objective than KL.
    """
    before, up_to, own = _ratios(log_q.detach(), mask, log_sampler, per_token_weights=per_token_weights)
    single = before * mask
    rewards = -single * kl.detach()
    after = rewards.flip(-1).cumsum(-1).flip(-1) - rewards
    if length_normalised:
        after = after / (mask.flip(-1).cumsum(-1).flip(-1) - mask).clamp_min(1)
    shifted = after if baseline is None else after - up_to * baseline
    return Coefficients(single, own * shifted * mask, after * mask)


def _ratios(log_q: Tensor, mask: Tensor, log_sampler: Tensor | None, *, per_token_weights: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of student to sampler: for the tokens before each place, for those up to it, and for its own where those do not carry it."""
    ones = torch.ones_like(mask)
    if log_sampler is None:
        return ones, ones, ones
    log_ratio = (log_q - log_sampler.to(log_q.dtype)) * mask
    if per_token_weights:
        return ones, ones, log_ratio.exp()
    up_to = log_ratio.cumsum(-1)
    return (up_to - log_ratio).exp(), up_to.exp(), ones
