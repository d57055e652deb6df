"""Live progress of a DAG run: what Airflow says of its tasks, and what MLflow says of the attempt that runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import LfmError
from lfm_tasks.stack.summary import Record, StepSummary, seconds, steps_table, task_name
from lfm_tasks.tracking.rest import request

STYLES = {"success": "green", "failed": "red", "upstream_failed": "red", "running": "yellow", "up_for_retry": "yellow"}
ENDED = ("success", "failed", "upstream_failed", "skipped", "removed")


@dataclass(frozen=True)
class Attempt:
    """The newest metrics of a running attempt."""

    name: str
    metrics: Mapping[str, float]

    @property
    def done(self) -> float:
        return self.metrics.get("progress/done", 0.0)

    @property
    def total(self) -> float:
        return self.metrics.get("progress/total", 0.0)

    def facts(self) -> str:
        """Loss and speed, as far as they are known."""
        shown = [f"loss {self.metrics['loss']:.3f}"] if "loss" in self.metrics else []
        if "tokens_per_second" in self.metrics:
            shown.append(f"{self.metrics['tokens_per_second']:.0f} tokens/s")
        return "  ".join(shown)


class RunningAttempts:
    """The RUNNING attempts of a project that report progress."""

    def __init__(self, mlflow: str, project: str) -> None:
        self._mlflow, self._project = mlflow, project

    def now(self) -> list[Attempt]:
        """Empty while MLflow is busy or the project is new: progress is a courtesy."""
        try:
            found = request(self._mlflow, f"experiments/get-by-name?experiment_name={self._project}", None, 5.0)
            query = {"experiment_ids": [found["experiment"]["experiment_id"]], "filter": "attributes.status = 'RUNNING'", "max_results": 20}
            runs = request(self._mlflow, "runs/search", query, 5.0).get("runs", [])
        except (LfmError, FileNotFoundError):
            return []
        attempts = [Attempt(run["info"].get("run_name", ""), _latest(run)) for run in runs]
        return [attempt for attempt in attempts if attempt.total > 0]


class NewRecords:
    """Records of one DAG run by task, reading each record of the store once."""

    def __init__(self, store: Store, dag_id: str, run_id: str) -> None:
        self._store, self._run = store, (dag_id, run_id)
        self._seen: set[str] = set()
        self.by_task: dict[str, Record] = {}

    def look(self) -> Mapping[str, Record]:
        for key in self._store.backend.list("records/"):
            if key not in self._seen:
                self._seen.add(key)
                self._take(self._store.get_record(key.removeprefix("records/").removesuffix(".json")))
        return self.by_task

    def _take(self, record: Record) -> None:
        task = record.get("airflow") or {}
        if (task.get("dag_id"), task.get("run_id")) == self._run:
            self.by_task[task_name(task)] = record


def task_summary(task: Mapping[str, Any], record: Record | None, now: datetime) -> StepSummary:
    """A task as Airflow sees it, with its wall time so far."""
    wall = task.get("duration")
    if task.get("state") == "running" and task.get("start_date"):
        wall = (now - datetime.fromisoformat(task["start_date"].replace("Z", "+00:00"))).total_seconds()
    hit = record["cache"]["hit"] if record else None
    return StepSummary(task_name(task), task.get("state") or "waiting", hit, wall, record["cpu_seconds"] if record else None)


def in_order(tasks: Iterable[Mapping[str, Any]], order: list[str]) -> list[Mapping[str, Any]]:
    """Tasks in the order of the DAG; what the order does not name goes last."""
    place = {task_id: position for position, task_id in enumerate(order)}
    return sorted(tasks, key=lambda task: (place.get(task["task_id"], len(place)), task["task_id"], task.get("map_index", -1)))


class Terminal:
    """A table that is redrawn in place, with a bar per running attempt."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, steps: list[StepSummary], attempts: list[Attempt]) -> None:
        styled = [StepSummary(step.task, _styled(step.state), step.cache_hit, step.wall_seconds, step.cpu_seconds) for step in steps]
        self._live.update(Group(steps_table(styled), *(_bar(attempt) for attempt in attempts)))


class Lines:
    """One line per change, for a log file. Progress of an attempt at every tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, str] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, steps: list[StepSummary], attempts: list[Attempt]) -> None:
        for step in steps:
            if step.state != self._states.get(step.task, "waiting"):
                took = f" after {seconds(step.wall_seconds)}" if step.state in ENDED and step.wall_seconds is not None else ""
                self._console.print(f"{step.task}: {step.state}{took}{' (cache hit)' if step.cache_hit else ''}")
            self._states[step.task] = step.state
        for attempt in attempts:
            tenth = int(10 * attempt.done / attempt.total)
            if tenth > self._tenths.get(attempt.name, 0):
                self._console.print(f"{attempt.name}: {attempt.done:.0f} of {attempt.total:.0f}  {attempt.facts()}")
            self._tenths[attempt.name] = tenth


def display(console: Console) -> Terminal | Lines:
    return Terminal(console) if console.is_terminal else Lines(console)


def utc_now() -> datetime:
    return datetime.now(UTC)


def _latest(run: Mapping[str, Any]) -> dict[str, float]:
    return {metric["key"]: float(metric["value"]) for metric in run["data"].get("metrics", [])}


def _styled(state: str) -> str:
    return f"[{STYLES[state]}]{state}[/]" if state in STYLES else state


def _bar(attempt: Attempt) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=attempt.total, completed=attempt.done, width=40)
    row.add_row(attempt.name, bar, f"{attempt.done:.0f}/{attempt.total:.0f}", attempt.facts())
    return row
