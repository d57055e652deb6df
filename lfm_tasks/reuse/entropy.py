"""Entropy of predictions: a loss without labels, and the signs, also without labels, that it has made a task worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.reuse.tasks import Task

ROWS, BATCH = 256, 64
"""Rows of each task that are looked at. The entropy of their mean prediction is known to a few hundredths of a nat."""
LEFT = 0.5
"""A task has collapsed where its mean prediction has less than this share of the entropy that its own model's has, and less than
it began with. Half the entropy is the square root of the number of classes: two balanced ones become 89:11, ten become three.

The own model is the measure because a task of unequal classes has a low entropy to begin with; and a merge that began low and
rises is not collapsing.
"""

FALL = 0.1
"""Of the agreement with the task's own model, beyond which predictions have left it: three standard deviations of what ``ROWS`` rows say
where a fifth of them changed class."""


def entropy(logits: Tensor) -> Tensor:
    """Of the softmax over the last dimension, in nats."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


@dataclass(frozen=True)
class Look:
    """The predictions on a task's rows; entropies in nats."""

    entropy: float
    """Mean over the rows: what is minimised."""
    marginal_entropy: float
    """Of the mean prediction: it stays where the classes stay."""
    top_share: float
    """Share of the rows that get the class predicted most often."""
    agreement: float
    """Share of the rows that get the class that the task's own model predicts."""


@dataclass(frozen=True)
class Collapse:
    """The warning that a task's predictions went to few classes."""

    task: str
    step: int
    marginal_entropy: float
    marginal_entropy_at_start: float
    marginal_entropy_of_own_model: float
    top_share: float

    def __str__(self) -> str:
        return (
            f"The task of {self.task} has collapsed at step {self.step}: the entropy of its mean prediction is "
            f"{self.marginal_entropy:.3f} nats, of {self.marginal_entropy_at_start:.3f} at the start and "
            f"{self.marginal_entropy_of_own_model:.3f} for its own model; {self.top_share:.0%} of the rows get one class. "
            "Take fewer steps, a smaller step_size, bounded=true, or on_collapse=revert."
        )

    def summary(self) -> dict[str, Any]:
        return {"kind": "collapse", "message": str(self)} | asdict(self)


@dataclass(frozen=True)
class Drift:
    """The warning that a task's predictions grow surer of other classes than its own model predicts."""

    task: str
    step: int
    agreement: float
    agreement_at_start: float

    def __str__(self) -> str:
        return (
            f"The task of {self.task} drifts at step {self.step}: {self.agreement:.0%} of the rows get the class that its own model "
            f"predicts, of {self.agreement_at_start:.0%} at the start. Take fewer steps, a smaller step_size, or on_collapse=revert."
        )

    def summary(self) -> dict[str, Any]:
        return {"kind": "drift", "message": str(self)} | asdict(self)


class Watch:
    """Looks at the same rows of every task, again and again."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        predicted = [_predicted(task, {}) for task in tasks]
        self.classes = [logs.argmax(-1) for logs in predicted]
        self.own = [_look(*one) for one in zip(predicted, self.classes, strict=True)]

    def look(self, tensors: Mapping[str, Tensor]) -> list[Look]:
        """At what the model with ``tensors`` predicts, task by task."""
        return [_look(_predicted(task, tensors), own) for task, own in zip(self.tasks, self.classes, strict=True)]

    def collapses(self, step: int, start: Sequence[Look], now: Sequence[Look]) -> list[Collapse]:
        return [
            Collapse(task.name, step, seen.marginal_entropy, first.marginal_entropy, own.marginal_entropy, seen.top_share)
            for task, first, seen, own in zip(self.tasks, start, now, self.own, strict=True)
            if _collapsed(own, first, seen)
        ]

    def drifts(self, step: int, start: Sequence[Look], now: Sequence[Look]) -> list[Drift]:
        """Of the tasks that have not collapsed."""
        return [
            Drift(task.name, step, seen.agreement, first.agreement)
            for task, first, seen, own in zip(self.tasks, start, now, self.own, strict=True)
            if seen.agreement < first.agreement - FALL and not _collapsed(own, first, seen)
        ]


def _collapsed(own: Look, first: Look, seen: Look) -> bool:
    return seen.marginal_entropy < min(LEFT * own.marginal_entropy, first.marginal_entropy)


@torch.no_grad()
def _predicted(task: Task, tensors: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities [rows, classes]."""
    return torch.cat([task.logits(tensors, batch).log_softmax(-1) for batch in task.batches(BATCH, ROWS)])


def _look(logs: Tensor, own: Tensor) -> Look:
    classes, mean = logs.argmax(-1), logs.double().exp().mean(0)
    return Look(
        entropy=float(entropy(logs).double().mean()),
        marginal_entropy=float(torch.special.entr(mean).sum()),
        top_share=float(classes.bincount().max()) / len(classes),
        agreement=float((classes == own).double().mean()),
    )
