"""Metrics of edited facts (Meng et al. 2022, arXiv 2202.05262, section 3.3), from columns of the per-sample table."""

from __future__ import annotations

import numpy as np

from lfm_tasks.metrics.metric import Metric, mean_of, ratio_of


def magnitude() -> Metric:
    """Mean of P(right) - P(wrong), the two columns of ``probabilities``; P is exp of the mean log-probability of the answer's tokens."""

    def difference(samples):
        return samples["probabilities"][:, 0] - samples["probabilities"][:, 1]

    features, statistic = ratio_of(difference, lambda samples: np.ones(len(samples["probabilities"])))
    return Metric("difference of probabilities", True, features, statistic)


def share_of_tokens() -> Metric:
    """Mean over samples of ``confidence``, which there holds the share of the answer's tokens that are as they should be."""
    features, statistic = mean_of("confidence")
    return Metric("share of tokens", True, features, statistic)
