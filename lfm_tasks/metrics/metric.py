"""A metric as a function of sums over samples, which makes it cheap to compute again on thousands of resamples.

``statistic(features(samples).sum(0))`` is the metric on the samples; ``statistic(counts @ features)`` is the metric on every
resample at once, where ``counts[b, i]`` says how often resample ``b`` drew sample ``i``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Samples = Mapping[str, NDArray]
"""Columns of a per-sample table, all of one length ``n``."""


@dataclass(frozen=True)
class Metric:
    """``features`` maps columns to ``[n, k]``; ``statistic`` maps their sums ``[..., k]`` to values ``[...]``.

    ``scale`` says how two values are compared: by their difference, or by the logarithm of their ratio. ``binary``: the
    metric is the mean of a 0/1 column, so that McNemar's test applies to it.
    """

    unit: str
    higher_is_better: bool
    features: Callable[[Samples], Array]
    statistic: Callable[[Array], Array]
    scale: Literal["difference", "log_ratio"] = "difference"
    binary: bool = False

    def value(self, samples: Samples) -> float:
        return float(self.statistic(self.features(samples).sum(axis=0)))

    def compare(self, challenger: Array, champion: Array) -> Array:
        """How far the challenger is from the champion, on the metric's scale; swapping the two changes the sign only."""
        if self.scale == "log_ratio":
            return np.log(challenger) - np.log(champion)
        return challenger - champion


def mean_of(column: str) -> tuple[Callable[[Samples], Array], Callable[[Array], Array]]:
    """Features and statistic of the plain mean of ``column``."""
    return ratio_of(lambda samples: samples[column], lambda samples: np.ones(len(samples[column])))


def ratio_of(
    numerator: Callable[[Samples], NDArray],
    denominator: Callable[[Samples], NDArray],
    transform: Callable[[Array], Array] = lambda ratio: ratio,
) -> tuple[Callable[[Samples], Array], Callable[[Array], Array]]:
    """Features and statistic of ``transform(sum(numerator) / sum(denominator))``."""

    def features(samples: Samples) -> Array:
        return np.stack([numerator(samples), denominator(samples)], axis=1).astype(np.float64)

    return features, lambda sums: transform(sums[..., 0] / sums[..., 1])


def clustered(metric: Metric, cluster: NDArray[np.int64]) -> Metric:
    """The same value, with samples of one cluster drawn together: ``cluster`` ``[n]`` numbers each sample's, from 0.

    For the many questions about one fact, whose answers are not independent.
    """

    def features(samples: Samples) -> Array:
        each = metric.features(samples)
        sums = np.zeros((int(cluster.max()) + 1, each.shape[1]))
        np.add.at(sums, cluster, each)
        return sums

    return replace(metric, features=features)
