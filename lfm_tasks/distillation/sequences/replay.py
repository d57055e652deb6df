"""How many of the rows a student writes itself, and which of them are written anew (Ko et al. 2024, DistiLLM, arXiv 2402.03898)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

RISE = 0.1
"""The share's step, and the rise of the validation loss, in nats, that it takes."""


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


@dataclass(frozen=True)
class Text:
    """What a student wrote to a prompt, with the stop token where it came to one, and its log-probabilities where it was drawn."""

    tokens: np.ndarray
    log_sampler: np.ndarray


@dataclass
class Replay:
    """The newest ``capacity`` texts; the oldest goes first. A key holds one text, its newest."""

    capacity: int
    kept: dict[str, Text] = field(default_factory=dict)

    def add(self, key: str, text: Text) -> None:
        self.kept.pop(key, None)
        self.kept[key] = text
        while len(self.kept) > self.capacity:
            del self.kept[next(iter(self.kept))]

    def state(self) -> dict[str, Tensor]:
        """In order, for :meth:`restore`."""
        return {
            f"{part}.{place:06}.{key}": torch.from_numpy(getattr(text, part))
            for place, (key, text) in enumerate(self.kept.items())
            for part in ("tokens", "log_sampler")
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        names = sorted(name.partition(".")[2] for name in state if name.startswith("tokens."))
        self.kept = {name.partition(".")[2]: Text(state[f"tokens.{name}"].numpy(), state[f"log_sampler.{name}"].numpy()) for name in names}


def fresh_share(step: int, steps: int) -> float:
    """Of student-written rows, those that are written anew: all at the first step, none after the last."""
    return max(0.0, 1.0 - step / steps)
