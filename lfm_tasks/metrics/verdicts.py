"""What an interval says about a difference. Differences are turned so that positive means the challenger is better."""

from __future__ import annotations

from math import log1p
from typing import Literal

from lfm_tasks.metrics.metric import Metric

Superiority = Literal["better", "not better", "uncertain"]
NonInferiority = Literal["holds", "regresses", "uncertain"]


def superiority(value: float, low: float, p: float, alpha: float, threshold: float) -> Superiority:
    """better: the whole interval lies above ``threshold`` and the test against "no difference" agrees (``p <= alpha``).

    not better: not even the point estimate lies above it. Both the interval and the test are asked because a bootstrap
    of a handful of samples is too sure of itself.
    """
    if low > threshold and p <= alpha:
        return "better"
    return "uncertain" if value > threshold else "not better"


def non_inferiority(value: float, low: float, margin: float) -> NonInferiority:
    """holds: the whole interval lies above ``-margin``. regresses: the point estimate itself lies below it."""
    if low >= -margin:
        return "holds"
    return "regresses" if value < -margin else "uncertain"


def loss_on_scale(metric: Metric, share: float) -> float:
    """A margin as people write it (0.05: five points, or five percent worse) on the scale that the metric is compared on.

    An accuracy may fall by ``share``; a perplexity may grow to ``1 + share`` times the champion's.
    """
    return log1p(share) if metric.scale == "log_ratio" else share


def gain_on_scale(metric: Metric, share: float) -> float:
    """An improvement as people write it on that scale: a perplexity falls to ``1 - share`` times the champion's."""
    return -log1p(-share) if metric.scale == "log_ratio" else share
