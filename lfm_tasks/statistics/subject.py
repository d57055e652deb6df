"""What a statistic is of: a model in its own task, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from lfm_tasks.errors import DataError, IncompatibleModels
from lfm_tasks.models import resuming
from lfm_tasks.models.forward import padded, unpadded
from lfm_tasks.models.opening import check_names, fresh_modules, model_directory, open_for
from lfm_tasks.models.prepared import Rows, read_rows
from lfm_tasks.statistics.config import StatisticsConfig
from lfm_tasks.step import Input, StepContext


@dataclass(frozen=True)
class Subject:
    model: PreTrainedModel
    """In float32, without dropout."""
    stored: frozenset[str]
    """Names of the tensors in the model's files."""
    rows: Rows
    config: StatisticsConfig
    context: StepContext

    def batches(self, first: int = 0) -> Iterator[dict[str, Tensor]]:
        """Whole rows without padding, after the ``first`` of them."""
        seen = 0
        for batch in unpadded(self.rows, self.config.batch_size):
            if seen >= first:
                yield self._moved(batch)
            seen += len(batch["input_ids"])

    def padded_batches(self, first: int = 0) -> Iterator[dict[str, Tensor]]:
        """Whole rows in their order, from the place ``first`` on."""
        for start in range(first, len(self.rows), self.config.batch_size):
            yield self._moved(padded(self.rows.input_ids[start : start + self.config.batch_size], self.model.config.pad_token_id or 0))

    def answers(self, place: int) -> tuple[Tensor, Tensor]:
        """Logits [answers, classes] of one row, and what the row itself answers, [answers].

        A row of a classification has one answer; of an instruction each token after the prompt is one, of a text each after the first.
        """
        batch = self._moved(padded([self.rows.input_ids[place]], 0))
        logits = self.model(**batch).logits
        if self.rows.task == "classification":
            return logits, torch.tensor([self.rows.columns["label"][place]], device=logits.device)
        first = self.rows.columns["prompt_tokens"][place] if self.rows.task == "instruction" else 1
        return logits[0, first - 1 : -1], batch["input_ids"][0, first:]

    def report(self, done: int, state: resuming.State) -> None:
        """After ``done`` rows. Raises :class:`AttemptKilled` after a checkpoint once a stop was asked for."""
        resuming.report(self.context, done, len(self.rows), state, what=f"of {len(self.rows)} rows")

    def _moved(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}


@dataclass(frozen=True)
class Gathered:
    tensors: Mapping[str, Tensor]
    described: Mapping[str, dict[str, Any]]
    """By the tensors' names in the model's files: where it is among ``tensors`` (``stored_as``), and what else is to be known."""


def _rows(dataset: Input, config: StatisticsConfig) -> Rows:
    """Raises :class:`DataError` for more shards than rows."""
    rows = read_rows(dataset.path, config.split, config.max_rows)
    if config.shard >= len(rows):
        raise DataError(f"shard {config.shard} of {config.shards}: there are {len(rows)} rows. Take fewer shards.")
    return rows.take(list(range(config.shard, len(rows), config.shards)))


def open_subject(model: Input, dataset: Input, config: StatisticsConfig, context: StepContext) -> Subject:
    """Raises :class:`IncompatibleModels` for rows of other classes or another tokenizer, for a model without a head for them, and where
    the opened model has other names than its files."""
    directory, rows = model_directory(model), _rows(dataset, config)
    opened = open_for(model, rows)
    if fresh := fresh_modules(opened):
        raise IncompatibleModels(
            f"{model.reference} has no trained {', '.join(fresh)}: what it does on these rows is left to chance. Give the tuned model."
        )
    stored = frozenset(name for path in directory.glob("*.safetensors") for name in safe_open(path, framework="pt").keys())  # noqa: SIM118
    check_names(model.reference, stored, opened)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Subject(opened.to(device), stored, rows, config, context)
