from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lfm_tasks.artifacts.answers import StoreAnswers
from lfm_tasks.artifacts.store import Store
from lfm_tasks.config import parse_config
from lfm_tasks.distillation.black_box.ask import run
from lfm_tasks.distillation.black_box.config import AskTeacherConfig
from lfm_tasks.settings import settings
from lfm_tasks.step import Input, Outcome
from tests.teacher_server import TeacherServer
from tests.tuned import Context

QUICK = {"first_wait": 0.0, "longest_wait": 5.0}


@dataclass
class Asking:
    """``ask(rows, options, …)`` runs the step *ask_teacher* against ``server``; attempts share one store of answers."""

    server: TeacherServer
    place: Path
    contexts: list[Context] = field(default_factory=list)
    asked: int = 0

    def __call__(self, rows: int | list[dict], options: dict[str, Any] | None = None, context: Context | None = None, **config) -> Outcome:
        data = write(numbered(rows) if isinstance(rows, int) else rows, self.place / f"data-{self.asked}")
        self.asked += 1
        context = context or self.context()
        options = QUICK | {"endpoint": self.server.url, "model": "oracle"} | (options or {})
        parsed = parse_config(AskTeacherConfig, {"method": "black_box", "prompt_template": "{text}", "options": options} | config)
        return run(parsed, {"data": Input("raw", "dataset", "0" * 64, data)}, context)

    def context(self, made: Callable[[Path], Context] = Context) -> Context:
        context = made(self.place / f"work-{len(self.contexts)}")
        context.answers = StoreAnswers(Store.open(f"file://{self.place}/store"))
        self.contexts.append(context)
        return context


def numbered(count: int) -> list[dict[str, str]]:
    return [{"text": f"question number {i} about the {['market', 'goal', 'phone'][i % 3]}day-{i}", "label": "x"} for i in range(count)]


def write(rows: list[dict], directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outcome.outputs["dataset"].path / "rows.jsonl").read_text().splitlines()]


@pytest.fixture
def server(monkeypatch) -> Iterator[TeacherServer]:
    with TeacherServer() as started:
        monkeypatch.setenv("LFM_TEACHER_ENDPOINTS", started.url)
        settings.cache_clear()
        yield started
    settings.cache_clear()


@pytest.fixture
def ask(server, tmp_path) -> Asking:
    return Asking(server, tmp_path)
