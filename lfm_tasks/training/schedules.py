"""Learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Literal


def factor(schedule: Literal["constant", "linear", "cosine"], step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at ``step`` (from 0): a linear rise over ``warmup`` steps, then the schedule.

    linear: 1 to 0 over the rest; cosine: (1 + cos(pi t)) / 2 with t from 0 to 1 over the rest.
    """
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    return max(0.0, 1.0 - done) if schedule == "linear" else max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def warmup_steps(steps: int, ratio: float, total: int) -> int:
    return steps or math.ceil(ratio * total)
