"""Rules that make one prediction of many: class scores ``[members, samples, classes]`` in, log-probabilities ``[samples, classes]`` out.

Scores are logits, or log-likelihoods. ``shares`` ``[members]`` are not negative and sum to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, logsumexp

from lfm_tasks.evaluation.answers import Floats, Integers

TIE = 1e-9
"""Shares and confidences that differ by less are equal: rounding must not decide, nor the order of the members."""


def probability_mean(scores: Floats, shares: Sequence[float]) -> Floats:
    """The linear opinion pool: each member answers with the probability that is its share."""
    return mixture(members_log_probabilities(scores), shares)


def logit_mean(scores: Floats, shares: Sequence[float]) -> Floats:
    """The logarithmic opinion pool: the softmax of the mean logits is the normalised geometric mean of the probabilities."""
    return log_softmax(np.tensordot(np.asarray(shares), scores, axes=1), axis=-1)


def max_logit(scores: Floats) -> Floats:
    """Softmax of the elementwise maximum. A member whose logits are larger throughout drowns the others."""
    return log_softmax(scores.max(axis=0), axis=-1)


def most_confident(scores: Floats) -> Floats:
    """Each sample's answer is that of the member with the highest probability; of equally sure members their mean."""
    members = members_log_probabilities(scores)
    sure = members.max(axis=-1)
    chosen = sure >= sure.max(axis=0) - TIE
    return logsumexp(members, axis=0, b=(chosen / chosen.sum(axis=0))[..., None])


def vote_shares(scores: Floats, shares: Sequence[float]) -> Floats:
    """Each class's share of the votes, as probabilities; a member votes for the first of its likeliest classes."""
    votes = scores.argmax(axis=-1)[..., None] == np.arange(scores.shape[-1])
    return np.tensordot(np.asarray(shares), votes, axes=1)


def vote_winners(scores: Floats, shares: Sequence[float]) -> Integers:
    """The class with most votes; of equals the one that is likelier under the mean of the probabilities, then the first."""
    votes = vote_shares(scores, shares)
    leads = votes >= votes.max(axis=-1, keepdims=True) - TIE
    return np.where(leads, np.exp(probability_mean(scores, shares)), -1.0).argmax(axis=-1)


def mixture(log_probabilities: Floats, shares: Sequence[float]) -> Floats:
    """``[members, …]`` to ``[…]``: the logarithm of the weighted mean of probabilities."""
    weights = np.reshape(shares, (-1,) + (1,) * (log_probabilities.ndim - 1))
    return logsumexp(log_probabilities, axis=0, b=weights)


def members_log_probabilities(scores: Floats) -> Floats:
    return log_softmax(scores, axis=-1)
