"""What a task is: rows in, one line per sample out. Its metrics follow from its group (:mod:`lfm_tasks.metrics.catalogue`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.evaluation.answers import Answers
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.models.images import ImageSpace
from lfm_tasks.models.prepared import Rows


@dataclass(frozen=True)
class Subject:
    """The model under evaluation, opened, with its tokenizer, or with what it takes as images."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    images: ImageSpace | None = None
    frame: Callable[[str], str] = str
    """What is made of a prompt in text before the model is asked."""


class Task(Protocol):
    needs: Literal["causal_lm", "classifier", "image_classifier"]

    def group(self, rows: Rows) -> str:
        """The name that the task's metrics and samples go by."""

    def check(self, rows: Rows) -> None:
        """Raise :class:`DataError` unless the data set is one that the task can be asked about."""

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        """One line per sample (:data:`lfm_tasks.metrics.samples.SCHEMA`); ``progress`` is told of samples as they are done."""


class AskedTask(Task, Protocol):
    """A task whose table follows from the model's answers, which an ensemble combines before there is a table."""

    def ask(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> Answers:
        """What the model answers to each row that the task can be asked about."""
