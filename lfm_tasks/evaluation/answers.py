"""What a model answers to the rows of a task, by kind, and the per-sample table that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lfm_tasks.metrics.answers import normalise, read_answer
from lfm_tasks.metrics.samples import sample_table
from lfm_tasks.models.prepared import Rows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ClassScores:
    """``scores`` ``[n, classes]``: logits, or log-likelihoods; their softmax are the probabilities of the classes.

    ``nll`` (nats) and ``tokens`` ``[n]`` are the target's own.
    """

    group: str
    rows: Rows
    scores: Floats
    nll: Floats
    tokens: Integers

    @classmethod
    def of_logits(cls, rows: Rows, logits: Floats) -> ClassScores:
        """Of a classifier: ``logits`` ``[n, classes]``."""
        own = softmax(logits)[np.arange(len(rows)), rows.columns["label"]]
        nll = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
        return cls("classification", rows, logits, nll, np.ones(len(rows), np.int64))

    @property
    def target(self) -> Integers:
        return np.array(self.rows.columns["label"])

    def table(self) -> pa.Table:
        columns = labelled_columns(self.rows.labels, self.target, softmax(self.scores))
        return scored(self.group, self.rows, columns | {"nll": self.nll, "tokens": self.tokens})


@dataclass(frozen=True)
class TokenLikelihoods:
    """The log-probability (nats) of every token that was asked for, row by row, and the bytes of their text."""

    group: str
    rows: Rows
    log_probabilities: list[Floats]
    bytes: Integers

    def table(self) -> pa.Table:
        nll, tokens = [-answer.sum() for answer in self.log_probabilities], [len(answer) for answer in self.log_probabilities]
        return scored(self.group, self.rows, {"nll": np.array(nll), "tokens": np.array(tokens), "bytes": self.bytes})


@dataclass(frozen=True)
class Texts:
    """The tokens that were generated for each row, without the stop token, their text, and what marks the answer in it."""

    group: str
    rows: Rows
    tokens: list[Integers]
    texts: list[str]
    marks: tuple[str, ...] = ()

    @property
    def answers(self) -> list[str]:
        """What is measured of each text."""
        return read_answers(self.texts, self.marks)

    def table(self) -> pa.Table:
        return scored(self.group, self.rows, written_columns(self.texts, self.rows.columns["completion"], self.marks))


Answers = ClassScores | TokenLikelihoods | Texts


def scored(group: str, rows: Rows, columns: dict[str, Any]) -> pa.Table:
    """The table of a group: who was asked what, and ``columns``."""
    return sample_table(group, {"sample_id": rows.sample_id, "prompt_sha256": rows.prompt_sha256(), **columns})


def labelled_columns(labels: list[str], target: Integers, probabilities: Floats, predicted: Integers | None = None) -> dict[str, Any]:
    """Columns that follow from class probabilities ``[n, classes]``: the first of the likeliest classes is predicted, unless
    ``predicted`` names one of them."""
    predicted = probabilities.argmax(axis=1) if predicted is None else predicted
    return {
        "target": [labels[code] for code in target],
        "prediction": [labels[code] for code in predicted],
        "correct": (predicted == target).astype("int8"),
        "confidence": probabilities.max(axis=1),
        "probabilities": list(probabilities),
    }


def read_answers(texts: Sequence[str], marks: Sequence[str]) -> list[str]:
    """The answer behind the last of the ``marks`` in each text, or without marks all of it."""
    return [read_answer(text, marks) if marks else text for text in texts]


def written_columns(texts: Sequence[str], target: Sequence[str], marks: Sequence[str]) -> dict[str, Any]:
    """Columns that follow from texts: the prediction is the answer that is read in each."""
    answers = read_answers(texts, marks)
    correct = [normalise(answer) == normalise(right) for answer, right in zip(answers, target, strict=True)]
    columns = {"target": target, "prediction": answers, "correct": np.array(correct, "int8")}
    return columns | ({"text": texts} if marks else {})


def softmax(scores: Floats) -> Floats:
    """Over the last axis of ``[n, classes]``."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
