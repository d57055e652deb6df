from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.step import Input
from tests.toys import make_tokenizer


@dataclass
class Context:
    workdir: Path
    reported: list = field(default_factory=list)
    logged: list = field(default_factory=list)

    def report(self, done, total, metrics=None):
        self.reported.append((done, total))

    def stop_requested(self):
        return False

    def log(self, message):
        self.logged.append(message)


@dataclass
class Prepared:
    directory: Path
    outcome: object
    context: Context

    @property
    def description(self):
        return json.loads((self.directory / "dataset.json").read_text())

    @property
    def counts(self):
        return self.description["counts"]

    def rows(self, split):
        return pq.read_table(self.directory / f"{split}.parquet").to_pylist()

    @property
    def all_rows(self):
        return [row | {"split": split} for split in ("train", "validation", "test") for row in self.rows(split)]

    @property
    def bytes(self):
        return {path.name: path.read_bytes() for path in sorted(self.directory.iterdir())}


@pytest.fixture(scope="session")
def toy_tokenizer_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy-tokenizer")
    make_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(toy_tokenizer_directory):
    from lfm_tasks.models.tokenizers import open_tokenizer

    return open_tokenizer(toy_tokenizer_directory)


@pytest.fixture
def prepare(toy_tokenizer_directory, tmp_path_factory):
    """``prepare(rows or directory, model=…, **config)`` runs the step."""

    def run_step(data, model=toy_tokenizer_directory, **config):
        from lfm_tasks.data.prepare import run

        root = tmp_path_factory.mktemp("prepare")
        if not isinstance(data, Path):
            directory = root / "raw"
            directory.mkdir()
            (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
            data = directory
        inputs = {"data": Input("raw", "dataset", "0" * 64, data), "model": Input("toy", "model", "1" * 64, model)}
        context = Context(root / "work")
        context.workdir.mkdir()
        outcome = run(parse_config(PrepareConfig, config), inputs, context)
        return Prepared(outcome.outputs["dataset"].path, outcome, context)

    return run_step


@pytest.fixture(scope="session")
def news():
    """Sixty short articles of three topics."""
    topics = {"sport": "scored in the cup final", "tech": "showed a faster chip", "business": "raised rates as markets fell"}
    return [{"text": f"Player number {n} {what} on day {n}.", "label": label} for n in range(20) for label, what in topics.items()]
