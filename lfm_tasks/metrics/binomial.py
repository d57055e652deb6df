"""Counts of successes: Wilson's interval and McNemar's test."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson_interval(successes: int, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a share; honest at 0 and 1, where a bootstrap is not."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = successes / n, 1 + z * z / n
    middle, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / weight), min(1.0, (middle + half) / weight)


@dataclass(frozen=True)
class McNemar:
    """``gained``: samples that only the challenger has right; ``lost``: that only the champion has right."""

    gained: int
    lost: int
    exact_p: float
    mid_p: float


def mcnemar(challenger: NDArray, champion: NDArray) -> McNemar:
    """McNemar's test on two 0/1 columns of the same samples, two-sided.

    Under equal models each discordant sample falls either way with probability one half. The exact p-value never errs
    too often; mid-p counts half of the observed outcome and is less timid (Fagerland et al. 2013).
    """
    gained = int(np.sum((challenger == 1) & (champion == 0)))
    lost = int(np.sum((challenger == 0) & (champion == 1)))
    discordant, fewer = gained + lost, min(gained, lost)
    tail = sum(comb(discordant, k) for k in range(fewer + 1)) / 2**discordant
    observed = comb(discordant, fewer) / 2**discordant
    return McNemar(gained, lost, exact_p=min(1.0, 2 * tail), mid_p=min(1.0, 2 * tail - observed))
