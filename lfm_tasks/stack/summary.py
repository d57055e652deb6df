"""What one DAG run did, told from its records and its report artifacts alone: no server is asked. Light to import."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfm_tasks.artifacts.store import Store
from lfm_tasks.tracking.lineage import Graph

Record = Mapping[str, Any]


@dataclass(frozen=True)
class StepSummary:
    """One task of the run. ``state`` is Airflow's; a task without a record has no times of ours."""

    task: str
    state: str
    cache_hit: bool | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True)
class Summary:
    """What ``demo/NAME.json`` holds, but for the times of the servers."""

    dag_id: str
    run_id: str
    state: str
    metrics: dict[str, dict[str, dict[str, Any]]]
    """Report name (base, champion, adapted) to metric name to value, low, high, …"""
    decision: dict[str, Any] | None
    model: dict[str, Any] | None
    """Name, alias, version, address and whether the alias moved."""
    steps: list[StepSummary]
    lineage: list[str]

    @property
    def cache_hits(self) -> int:
        return sum(bool(step.cache_hit) for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"cache_hits": self.cache_hits}


REPORTS = {"base": "evaluate_base", "champion": "evaluate_champion", "adapted": "evaluate_challenger"}


def task_name(task: Mapping[str, Any]) -> str:
    """The task's id, and of an instance of a mapped task its place in brackets."""
    place = task.get("map_index", -1)
    return f"{task['task_id']}[{place}]" if place is not None and place >= 0 else task["task_id"]


def records_of_run(records: Iterable[tuple[str, Record]], dag_id: str, run_id: str) -> dict[str, Record]:
    """The last record of each task of one DAG run, by :func:`task_name`."""
    ours = [record for _, record in records if _belongs(record, dag_id, run_id)]
    return {task_name(record["airflow"]): record for record in sorted(ours, key=lambda record: record["started"])}


def summarise(store: Store, dag_id: str, run_id: str, state: str, task_states: Mapping[str, str]) -> Summary:
    """:param task_states: Airflow's state of every task, in the order in which they are shown."""
    every = list(store.records())
    records = records_of_run(every, dag_id, run_id)
    model = _model(records)
    return Summary(
        dag_id=dag_id,
        run_id=run_id,
        state=state,
        metrics={name: _metrics(store, records[task]) for name, task in REPORTS.items() if task in records},
        decision=_output_json(store, records.get("gate"), "decision", "decision.json"),
        model=model,
        steps=[step_summary(task, task_state, records.get(task)) for task, task_state in task_states.items()],
        lineage=Graph.from_records(every).tree(model["sha256"], labels=_labels(model)) if model else [],
    )


def step_summary(task: str, state: str, record: Record | None) -> StepSummary:
    if record is None:
        return StepSummary(task, state)
    hit, wall, cpu = record["cache"]["hit"], record["wall_seconds"], record["cpu_seconds"]
    return StepSummary(task, state, hit, wall, cpu, record.get("peak_rss_bytes"))


def render(summary: Summary) -> RenderableType:
    parts: list[RenderableType] = [_comparison(summary)]
    if summary.decision:
        reasons = "".join(f"\n  - {reason}" for reason in summary.decision["reasons"])
        parts.append(Text(f"\nGate: {summary.decision['outcome']}{reasons}"))
    if summary.model:
        parts.append(Text(f"\n{_model_line(summary.model)}\n  sha256:{summary.model['sha256']}"))
        parts.append(Text("\nLineage\n" + "\n".join(f"  {line}" for line in summary.lineage), no_wrap=True, overflow="ellipsis"))
    parts.append(Text())
    parts.append(steps_table(summary.steps))
    return Group(*parts)


def steps_table(steps: Iterable[StepSummary]) -> Table:
    table = Table(title="Steps", title_justify="left")
    table.add_column("step")
    table.add_column("state")
    for name in ("wall", "CPU", "memory"):
        table.add_column(name, justify="right")
    table.add_column("cache")
    for step in steps:
        cache = {True: "hit", False: "", None: ""}[step.cache_hit]
        table.add_row(step.task, step.state, seconds(step.wall_seconds), seconds(step.cpu_seconds), _memory(step.peak_rss_bytes), cache)
    return table


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _memory(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f} MB"


def _belongs(record: Record, dag_id: str, run_id: str) -> bool:
    airflow = record.get("airflow") or {}
    return airflow.get("dag_id") == dag_id and airflow.get("run_id") == run_id


def _metrics(store: Store, record: Record) -> dict[str, dict[str, Any]]:
    return (_output_json(store, record, "report", "metrics.json") or {}).get("metrics", {})


def _output_json(store: Store, record: Record | None, output: str, file: str) -> dict[str, Any] | None:
    if record is None or output not in record["outputs"]:
        return None
    made = record["outputs"][output]
    data = store.backend.get_bytes(f"artifacts/{made['kind']}/{made['sha256']}/{file}")
    return None if data is None else json.loads(data)


def _model(records: Mapping[str, Record]) -> dict[str, Any] | None:
    """The challenger, with what *promote* says about it where it ran."""
    tune = records.get("tune")
    if tune is None:
        return None
    made = tune["outputs"].get("model") or next(iter(tune["outputs"].values()))
    said = records["promote"]["summary"] if "promote" in records else {}
    wanted = ("model_name", "alias", "version", "previous", "moved")
    return {"sha256": made["sha256"], "kind": made["kind"], **{key: said[key] for key in wanted if key in said}}


def _labels(model: Mapping[str, Any]) -> dict[str, str]:
    return {model["sha256"]: f"{model['model_name']} version {model['version']}"} if model.get("version") else {}


def _model_line(model: Mapping[str, Any]) -> str:
    if not model.get("moved"):
        return f"Adapted {model['kind']} (no alias was moved)"
    return f"Model {model['model_name']} version {model['version']} is now {model['alias']}: models:/{model['model_name']}@{model['alias']}"


def _comparison(summary: Summary) -> Table:
    """One row per metric, one column per report; champion only where it is not the base."""
    shown = {name: metrics for name, metrics in summary.metrics.items() if name != "champion" or metrics != summary.metrics.get("base")}
    table = Table(title="Held-out samples, with 95 % intervals", title_justify="left")
    table.add_column("metric")
    for name in shown:
        table.add_column(name, justify="right")
    for metric in dict.fromkeys(metric for metrics in shown.values() for metric in metrics):
        table.add_row(metric, *(_interval(metrics.get(metric)) for metrics in shown.values()))
    return table


def _interval(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ""
    low, high = metric.get("low"), metric.get("high")
    interval = "" if low is None or high is None else f"  [{low:.3f}, {high:.3f}]"
    return f"{metric['value']:.3f}{interval}"


def write(summary: Summary, extra: Mapping[str, Any], path: Path) -> None:
    """Write ``demo/NAME.json``; ``extra`` holds what only the demo knows (addresses, times of the servers)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary.to_json() | dict(extra), indent=2, default=str) + "\n")
