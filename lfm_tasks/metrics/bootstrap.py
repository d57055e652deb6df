"""Bootstrap intervals of any :class:`Metric`, alone or paired: the metric is computed again on every resample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lfm_tasks.metrics.binomial import wilson_interval
from lfm_tasks.metrics.metric import Array, Metric, Samples

CELLS_AT_ONCE = 1 << 22
Statistic = Callable[[Array], Array]


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its interval, over ``n`` samples."""

    value: float
    low: float
    high: float
    n: int


def estimate(metric: Metric, samples: Samples, *, level: float, resamples: int, seed: int) -> Estimate:
    """The metric with its BCa bootstrap interval.

    Where every sample of a 0/1 metric has one value, no resample differs and a bootstrap would claim certainty; Wilson's
    interval is used there.
    """
    features = metric.features(samples)
    n, value = len(features), float(metric.statistic(features.sum(axis=0)))
    if metric.binary and value in (0.0, 1.0):
        return Estimate(value, *wilson_interval(round(value * n), n, level), n)
    values = bootstrap(features, metric.statistic, resamples, seed)
    jackknife = metric.statistic(features.sum(axis=0) - features) if n > 1 else np.array([value])
    low, high = bca_interval(values, value, jackknife, level)
    return Estimate(value, low, high, n)


def bootstrap(features: Array, statistic: Statistic, resamples: int, seed: int) -> Array:
    """The statistic on ``resamples`` resamples of the rows of ``features`` ``[n, k]``."""
    return np.concatenate([statistic(counts @ features) for counts in resample_counts(len(features), resamples, seed)])


def paired_bootstrap(first: Array, second: Array, statistic: Statistic, resamples: int, seed: int) -> tuple[Array, Array]:
    """The statistic of two models on the same resamples of the same samples; row ``i`` of both is one sample."""
    pairs = [(statistic(c @ first), statistic(c @ second)) for c in resample_counts(len(first), resamples, seed)]
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def resample_counts(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """``[some resamples, n]``: how often each sample was drawn; together ``resamples`` rows, each with the sum ``n``."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk := max(1, CELLS_AT_ONCE // n)):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def percentile_interval(values: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca_interval(values: Array, value: float, jackknife: Array, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987): percentiles shifted for bias and skew.

    ``jackknife`` ``[n]`` holds the statistic without each sample in turn. Where bias or acceleration is undefined (no
    spread), the plain percentiles are returned.
    """
    below = float(np.mean(values < value) + np.mean(values == value) / 2)
    deviations = jackknife.mean() - jackknife
    spread = float(np.sum(deviations**2))
    if not 0 < below < 1 or spread == 0:
        return percentile_interval(values, level)
    normal = NormalDist()
    bias, acceleration = normal.inv_cdf(below), float(np.sum(deviations**3)) / (6 * spread**1.5)
    quantiles = [_shifted(normal, bias, acceleration, normal.inv_cdf(p)) for p in ((1 - level) / 2, (1 + level) / 2)]
    low, high = np.quantile(values, quantiles)
    return float(low), float(high)


def _shifted(normal: NormalDist, bias: float, acceleration: float, z: float) -> float:
    return normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))


def randomisation_p(metric: Metric, first: Array, second: Array, resamples: int, seed: int) -> float:
    """Two-sided p-value of paired randomisation: how often exchanging the two models' outcomes sample by sample, at random,
    puts them as far apart as they are. Valid at any number of samples; ``first`` and ``second`` are features ``[n, k]``.
    """
    generator = np.random.default_rng(seed)
    n, change = len(first), second - first
    observed = abs(float(metric.compare(metric.statistic(first.sum(axis=0)), metric.statistic(second.sum(axis=0)))))
    extreme = 0
    for start in range(0, resamples, chunk := max(1, CELLS_AT_ONCE // n)):
        swapped = generator.integers(2, size=(min(chunk, resamples - start), n)).astype(np.float64) @ change
        apart = metric.compare(metric.statistic(first.sum(axis=0) + swapped), metric.statistic(second.sum(axis=0) - swapped))
        extreme += int(np.sum(np.abs(apart) >= observed - 1e-12))
    return (1 + extreme) / (1 + resamples)
