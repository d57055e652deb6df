"""What a task is: rows in, one line per sample out. Its metrics follow from its group (:mod:`lfm_tasks.metrics.catalogue`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.metrics.samples import sample_table
from lfm_tasks.models.prepared import Rows


@dataclass(frozen=True)
class Subject:
    """The model under evaluation, opened, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class Task(Protocol):
    needs: Literal["causal_lm", "classifier"]

    def group(self, rows: Rows) -> str:
        """The name that the task's metrics and samples go by."""

    def check(self, rows: Rows) -> None:
        """Raise :class:`DataError` unless the data set is one that the task can be asked about."""

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        """One line per sample (:data:`lfm_tasks.metrics.samples.SCHEMA`); ``progress`` is told of samples as they are done."""


def scored(group: str, rows: Rows, columns: dict[str, Any]) -> pa.Table:
    """The table of a group: who was asked what, and ``columns``."""
    return sample_table(group, {"sample_id": rows.sample_id, "prompt_sha256": rows.prompt_sha256(), **columns})


def labelled_columns(labels: list[str], target: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Columns that follow from class probabilities ``[n, classes]``: the first of the likeliest classes is predicted."""
    predicted = probabilities.argmax(axis=1)
    return {
        "target": [labels[code] for code in target],
        "prediction": [labels[code] for code in predicted],
        "correct": (predicted == target).astype("int8"),
        "confidence": probabilities.max(axis=1),
        "probabilities": list(probabilities),
    }


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis of ``[n, classes]``."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
