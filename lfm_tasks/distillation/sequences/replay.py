"""How many of the rows a student writes itself, and which of them are written anew (Ko et al. 2024, DistiLLM, arXiv 2402.03898)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

RISE, CAPACITY = 0.1, 1000
"""The share's step, and the loss's rise in nats that it takes; sequences that are kept."""


@dataclass
class Adaptive:
    """A share of student-written rows that begins at 0 and rises by 0.1 whenever validation has got worse by more than 0.1 nats."""

    share: float = 0.0
    reference: float | None = None
    """The validation loss that the next one is compared with."""

    def validated(self, loss: float) -> None:
        if self.reference is not None and loss > self.reference + RISE:
            self.share = min(1.0, self.share + RISE)
        self.reference = loss


@dataclass
class Replay:
    """The newest ``capacity`` sequences; the oldest goes first. A key holds one sequence, its newest."""

    capacity: int = CAPACITY
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, key: str, tokens: np.ndarray) -> None:
        self.kept.pop(key, None)
        self.kept[key] = tokens
        while len(self.kept) > self.capacity:
            del self.kept[next(iter(self.kept))]


def fresh_share(step: int, steps: int) -> float:
    """Of student-written rows, those that are written anew: all at the first step, none after the last."""
    return max(0.0, 1.0 - step / steps)
