"""Does a model that says 80 % get 80 % right: calibration errors, Brier score, and the bins of a reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_tasks.metrics.metric import Array, Metric, Samples, mean_of


def expected_calibration_error(bins: int) -> Metric:
    """Mean gap between confidence and accuracy over bins of equal width, weighted by samples (arXiv 1706.04599, eq. 3)."""
    return _calibration_error(lambda confidence: np.linspace(0, 1, bins + 1)[1:-1])


def adaptive_calibration_error(bins: int) -> Metric:
    """The same over bins that hold equally many samples; resamples keep the bins of the full sample (arXiv 1904.01685)."""
    return _calibration_error(lambda confidence: np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))


def brier_score(classes: int) -> Metric:
    """Mean squared distance between the probabilities ``[n, classes]`` and the target's one-hot vector; from 0 to 2."""

    def features(samples: Samples) -> Array:
        one_hot = samples["target"][:, None] == np.arange(classes)
        return mean_features({"squared": np.square(samples["probabilities"] - one_hot).sum(axis=1)})

    mean_features, statistic = mean_of("squared")
    return Metric("squared distance", False, features, statistic)


@dataclass(frozen=True)
class Reliability:
    """The non-empty bins of a reliability diagram, by rising confidence."""

    low: Array
    high: Array
    count: NDArray[np.int64]
    confidence: Array
    accuracy: Array


def reliability(confidence: Array, correct: NDArray, bins: int) -> Reliability:
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    mean = [np.bincount(index, weights=values, minlength=bins)[filled] / count[filled] for values in (confidence, correct)]
    return Reliability(edges[:-1][filled], edges[1:][filled], count[filled], *mean)


def _calibration_error(edges) -> Metric:
    """``edges`` maps confidences to the inner edges of the bins; a confidence on an edge falls in the lower bin."""

    def features(samples: Samples) -> Array:
        confidence = samples["confidence"].astype(np.float64)
        inner = edges(confidence)
        in_bin = np.digitize(confidence, inner, right=True)[:, None] == np.arange(len(inner) + 1)
        gap = confidence - samples["correct"]
        return np.concatenate([gap[:, None] * in_bin, np.ones((len(gap), 1))], axis=1)

    def statistic(sums: Array) -> Array:
        return np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1]

    return Metric("share", False, features, statistic)
