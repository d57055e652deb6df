"""One split of a prepared data set in memory, and which of its tokens the loss is taken over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lfm_tasks.errors import DataError
from lfm_tasks.models.prepared import read_description

OBJECTIVES = {"instruction": ("completion", "tokens"), "text": ("tokens",), "classification": ("labels",)}


@dataclass(frozen=True)
class Split:
    """``tokens[i]`` are the ids of example i; ``first[i]`` is the position of its first target token (language models);
    ``labels[i]`` its class (classification). Where the loss has parts, ``parts[i]`` is the example's, of which ``shares`` has the
    share, and ``weights[i]``, made for each step, weighs the loss of each of its targets."""

    sample_ids: list[str]
    tokens: list[np.ndarray]
    first: np.ndarray
    labels: np.ndarray
    parts: np.ndarray | None = None
    shares: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.tokens])

    def take(self, keep: np.ndarray) -> Split:
        chosen = [int(index) for index in keep]
        parts = None if self.parts is None else self.parts[chosen]
        ids, tokens = [self.sample_ids[i] for i in chosen], [self.tokens[i] for i in chosen]
        return Split(ids, tokens, self.first[chosen], self.labels[chosen], parts, self.shares)


def choose_objective(wanted: str, task: str) -> str:
    """The objective for a data set's task. Raises :class:`DataError` where they do not fit."""
    allowed = OBJECTIVES[task]
    if wanted == "auto":
        return allowed[0]
    if wanted not in allowed:
        raise DataError(f"The objective '{wanted}' does not fit {task} data. Allowed: auto, {', '.join(allowed)}.")
    return wanted


def read_split(directory: Path, name: str, objective: str) -> Split:
    """Rows of ``<name>.parquet``, in their order. Raises :class:`DataError` where the loss has parts and is not that of completions."""
    table = pq.read_table(directory / f"{name}.parquet")
    columns = set(table.column_names)
    tokens = [np.asarray(ids, dtype=np.int64) for ids in table["input_ids"].to_pylist()]
    first = np.ones(len(tokens), dtype=np.int64)
    if objective == "completion":
        first = np.maximum(table["prompt_tokens"].to_numpy(), 1)
    labels = table["label"].to_numpy() if "label" in columns else np.full(len(tokens), -1)
    labels = np.asarray(labels, dtype=np.int64)
    if "part" not in columns:
        return Split(table["sample_id"].to_pylist(), tokens, first, labels)
    if objective != "completion":
        raise DataError(f"The rows have shares of the loss over completions; the objective is '{objective}'. Set it to auto or completion.")
    shares = np.array([share for _, share in sorted(read_description(directory)["parts"].items())])
    return Split(table["sample_id"].to_pylist(), tokens, first, labels, table["part"].to_numpy().astype(np.int64), shares)


def with_targets(split: Split, objective: str) -> tuple[Split, int]:
    """The examples that have something to learn from, and how many have not (a completion cut off, a single token)."""
    if objective == "labels":
        keep = np.flatnonzero(split.lengths > 0)
    else:
        keep = np.flatnonzero(split.lengths > split.first)
    return split.take(keep), len(split) - len(keep)


def sample(split: Split, count: int) -> Split:
    """``count`` examples by content hash (0: all): the same ones whatever the order of rows."""
    if not count or count >= len(split):
        return split
    return split.take(np.sort(np.argsort(np.array(split.sample_ids))[:count]))
