"""A tune step without a runner: small prepared data sets, inputs, and a context that counts and stops."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lfm_tasks.errors import AttemptKilled
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.step import Input
from tests.toys import make_bert, make_llama

LABELS = ["business", "sport", "tech"]


@dataclass
class Folder:
    """Checkpoints in a directory; whole or absent is the runner's affair."""

    path: Path

    def latest(self) -> Path | None:
        found = sorted(self.path.glob("*"), key=lambda path: int(path.name)) if self.path.is_dir() else []
        return found[-1] if found else None

    def save(self, step: int, write) -> None:
        shutil.rmtree(self.path / str(step), ignore_errors=True)
        (self.path / str(step)).mkdir(parents=True)
        write(self.path / str(step))


@dataclass
class Context:
    """``stop_at`` is the number of the poll that is answered with a stop (0: never)."""

    workdir: Path
    stop_at: int = 0
    polls: int = 0
    reports: list[tuple[int, int, dict]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    registry: None = None

    def __post_init__(self) -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Folder(self.workdir.parent / f"{self.workdir.name}-checkpoints")

    def stop_requested(self) -> bool:
        self.polls += 1
        return 0 < self.stop_at <= self.polls

    def report(self, done: int, total: int, metrics=None) -> None:
        self.reports.append((done, total, dict(metrics or {})))
        if 0 < self.stop_at <= self.polls:
            raise AttemptKilled("stopped")

    def log(self, message: str) -> None:
        self.lines.append(message)


class StoppingAt(Context):
    """Stops at the report of ``done`` units."""

    def __init__(self, workdir: Path, done: int) -> None:
        super().__init__(workdir)
        self.done = done

    def report(self, done: int, total: int, metrics=None) -> None:
        super().report(done, total, metrics)
        if done == self.done:
            raise AttemptKilled("Stopped on request.")


def model_input(directory: Path) -> Input:
    return Input(str(directory.name), "model", hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(), directory)


def llama_input(directory: Path, **options) -> Input:
    make_llama(directory, **options)
    return model_input(directory)


def bert_input(directory: Path, **options) -> Input:
    make_bert(directory, **options)
    return model_input(directory)


def write_dataset(
    directory: Path, model: Path, task: str, *, rows: int = 12, seed: int = 0, vocabulary: int | None = None, longest: int = 24
) -> Input:
    """Random tokens of lengths 4 to ``longest``; the class of a row decides its first tokens, so that it can be learned."""
    random = np.random.default_rng(seed)
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    directory.mkdir(parents=True)
    for split, count in (("train", rows), ("validation", 5), ("test", 5)):
        pq.write_table(_rows(random, size, task, split, count, longest), directory / f"{split}.parquet")
    description = {
        "format": 1,
        "task": task,
        "tokenizer_sha256": tokenizer_digest(model),
        "vocabulary": vocabulary or size,
        "labels": [] if task == "text" else LABELS,
        "max_length": longest,
    }
    (directory / "dataset.json").write_text(json.dumps(description))
    return Input(directory.name, "dataset", "d" * 64, directory)


def _rows(random, size: int, task: str, split: str, count: int, longest: int) -> pa.Table:
    labels = [index % len(LABELS) for index in range(count)]
    lengths = [int(random.integers(4, longest + 1)) for _ in labels]
    tokens = [[10 + label] * 2 + random.integers(20, size, length - 2).tolist() for label, length in zip(labels, lengths, strict=True)]
    columns = {
        "sample_id": [hashlib.sha256(f"{split}{index}".encode()).hexdigest() for index in range(count)],
        "input_ids": pa.array(tokens, pa.list_(pa.int32())),
    }
    if task == "instruction":
        columns["prompt_tokens"] = pa.array([length - 2 for length in lengths], pa.int32())
    if task != "text":
        columns["label"] = pa.array(labels, pa.int32())
    return pa.table(columns)
