"""How fast two models answer, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lfm_tasks.models.forward import Batch


@dataclass(frozen=True)
class Timing:
    """Seconds for a pass over all rows: of each repetition, in order."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def time_in_turn(models: Sequence[nn.Module], batches: Sequence[Batch], repeats: int, clock: Callable[[], float] = time.perf_counter):
    """A :class:`Timing` for each model. They take turns, so that what else the machine does weighs on all of them alike; a first
    pass of each is not counted."""
    found: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 1):
        for model, seconds in zip(models, found, strict=True):
            began = clock()
            _pass(model, batches)
            if turn:
                seconds.append(clock() - began)
    return [Timing(seconds) for seconds in found]


def _pass(model: nn.Module, batches: Sequence[Batch]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model(input_ids=batch["input_ids"].to(model.device), attention_mask=batch["attention_mask"].to(model.device))
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
