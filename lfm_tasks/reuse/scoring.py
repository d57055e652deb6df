"""How well weights do on a task's rows: what soups and searches choose by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lfm_tasks.errors import DataError, InvalidInput
from lfm_tasks.models.forward import make_batch
from lfm_tasks.models.prepared import Rows
from lfm_tasks.reuse.methods.config import ScoreName
from lfm_tasks.reuse.tasks import Task

TOKENS = 2048
"""Most tokens of a batch, its padding included; a longer row is a batch of its own."""


@dataclass(frozen=True)
class Score:
    """Of the class, or of the first token of a decoder's answer; means over the rows."""

    accuracy: float
    log_likelihood: float

    def by(self, name: ScoreName) -> float:
        return self.accuracy if name == "accuracy" else self.log_likelihood

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.4f}, log-likelihood {self.log_likelihood:.4f}"


class Scorer:
    """Scores weights on the first ``most`` rows of a task by sample id, which is a hash; 0: on all."""

    def __init__(self, task: Task, most: int = 0) -> None:
        """Raises :class:`DataError` for rows of plain text."""
        if task.rows.task == "text":
            raise DataError(f"The rows for {task.name} are plain text without answers. Give labelled rows or instructions.")
        self.task, rows = task, task.rows.take(list(range(min(most or len(task.rows), len(task.rows)))))
        self.batches = [make_batch(rows, places, task.pad_token_id) for places in _by_length(rows)]
        self.rows = len(rows)

    def __call__(self, tensors: Mapping[str, Tensor]) -> Score:
        """``tensors`` as :meth:`Task.logits` takes them, of any precision. Raises :class:`InvalidInput` for NaN or infinity."""
        given = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        hits, total = 0, 0.0
        with torch.inference_mode():
            for batch in self.batches:
                logits = self.task.logits(given, batch)
                hits += int((logits.argmax(-1) == batch["target"]).sum())
                total -= float(cross_entropy(logits, batch["target"], reduction="sum"))
        if not torch.tensor(total).isfinite():
            raise InvalidInput(f"The model's answers on the rows for {self.task.name} are not finite. Try smaller scales or weights.")
        return Score(hits / self.rows, total / self.rows)


def _by_length(rows: Rows) -> Iterator[list[int]]:
    """Places of rows of about one length, so that little is padded."""
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows.input_ids[place])):
        if batch and (len(batch) + 1) * len(rows.input_ids[place]) > TOKENS:
            yield batch
            batch = []
        batch.append(place)
    yield batch
