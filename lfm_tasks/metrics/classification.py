"""Accuracy, macro-F1 and the confusion matrix over integer classes ``0 … classes - 1``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfm_tasks.metrics.metric import Array, Metric, Samples, mean_of


def accuracy() -> Metric:
    """Share of samples whose ``correct`` is 1. Exact match is the same number over generated answers."""
    features, statistic = mean_of("correct")
    return Metric("share", True, features, statistic, binary=True)


def macro_f1(classes: int) -> Metric:
    """Mean over classes of ``2 tp / (targets + predictions)``; a class that neither has is left out, as in scikit-learn."""

    def features(samples: Samples) -> Array:
        target, predicted = _one_hot(samples["target"], classes), _one_hot(samples["prediction"], classes)
        return np.concatenate([target * predicted, target + predicted], axis=1)

    def statistic(sums: Array) -> Array:
        hits, seen = sums[..., :classes], sums[..., classes:]
        scores = np.divide(2 * hits, seen, out=np.zeros_like(hits), where=seen > 0)
        return scores.sum(axis=-1) / (seen > 0).sum(axis=-1)

    return Metric("F1", True, features, statistic)


def confusion_matrix(target: NDArray, prediction: NDArray, classes: int) -> NDArray[np.int64]:
    """``[target, prediction]`` counts."""
    cells = np.bincount(target.astype(np.int64) * classes + prediction.astype(np.int64), minlength=classes * classes)
    return cells.reshape(classes, classes)


def _one_hot(codes: NDArray, classes: int) -> Array:
    return (codes[:, None] == np.arange(classes)).astype(np.float64)
