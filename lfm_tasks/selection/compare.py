"""The step *compare*: several models on several tasks in one table, what each cost, and the Pareto front of the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ConfigError, DataError, unknown_name
from lfm_tasks.markdown import cell
from lfm_tasks.selection.compare_config import CompareConfig, Subject
from lfm_tasks.selection.compare_figure import draw
from lfm_tasks.selection.pareto import pareto_front
from lfm_tasks.selection.select import choose_metric, read_report
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of


@dataclass
class Line:
    """A subject with its entries (value, low, high, n) by task. ``normalised`` is the mean over tasks of its value divided by the
    task's expert's; None where a task or an expert was not measured."""

    subject: Subject
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    mean: float | None = None
    normalised: float | None = None
    on_front: bool = False

    @property
    def point(self) -> tuple[float, float] | None:
        """(mean, CPU seconds) of a result where both are known: those are what the front is taken over."""
        if self.subject.role != "result" or self.mean is None or self.subject.cpu_seconds is None:
            return None
        return self.mean, self.subject.cpu_seconds


def run(config: CompareConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    reports = [read_report(source) for source in all_of(inputs, "reports")]
    lines, tasks, metric = fill(config, reports)
    average(lines, tasks)
    results = [line for line in lines if line.point]
    for line, on_front in zip(results, pareto_front([line.point for line in results]), strict=True):
        line.on_front = on_front
    return _write(lines, tasks, metric, context.workdir / "comparison")


def fill(config: CompareConfig, reports: list[dict[str, Any]]) -> tuple[list[Line], list[str], str]:
    """A line for each subject, the tasks in the order of the cells, and the metric.

    Raises :class:`ConfigError` for cells that do not match the reports, and :class:`DataError` where two reports on one task are
    not about the same data, asked in the same way.
    """
    if len(config.cells) != len(reports):
        raise ConfigError(f"cells names {len(config.cells)} reports, but {len(reports)} were given. Give one cell for each.")
    metric = choose_metric(config.metric, reports)
    lines, first = {subject.name: Line(subject) for subject in config.subjects}, {}
    for place, report in zip(config.cells, reports, strict=True):
        if place.subject not in lines:
            raise ConfigError(f"cells: {unknown_name('subject', place.subject, lines)}")
        choose_metric(metric, [report])
        same = {name: report[name] for name in ("dataset_sha256", "settings")}
        if first.setdefault(place.task, same) != same:
            raise DataError(f"The reports on {place.task} differ: {first[place.task]} and {same}. Evaluate all in the same way.")
        if place.task in lines[place.subject].entries:
            raise ConfigError(f"cells has {place.subject} on {place.task} twice. Give each report once.")
        if not report["metrics"][metric]["higher_is_better"]:
            raise ConfigError(f"metric: {metric} is better when lower, so shares of it mean nothing. Choose an accuracy.")
        lines[place.subject].entries[place.task] = report["metrics"][metric]
    return list(lines.values()), list(first), metric


def average(lines: list[Line], tasks: list[str]) -> None:
    """Fill in the means over tasks of the lines that were measured on all of them."""
    experts = {line.subject.expert_of: line.entries.get(line.subject.expert_of) for line in lines if line.subject.expert_of}
    for line in lines:
        if any(task not in line.entries for task in tasks):
            continue
        line.mean = sum(line.entries[task]["value"] for task in tasks) / len(tasks)
        if all(experts.get(task) and experts[task]["value"] > 0 for task in tasks):
            line.normalised = sum(line.entries[task]["value"] / experts[task]["value"] for task in tasks) / len(tasks)


def _write(lines: list[Line], tasks: list[str], metric: str, directory: Path) -> Outcome:
    (directory / "figures").mkdir(parents=True)
    table = [row for line in lines for row in _rows(line, tasks)]
    described = {"format": 1, "metric": metric, "tasks": tasks, "subjects": [_described(line) for line in lines]}
    (directory / "comparison.json").write_bytes(canonical_json(described) + b"\n")
    pq.write_table(pa.Table.from_pylist(table), directory / "comparison.parquet")
    page, picture = directory / "report.md", directory / "figures" / "comparison.png"
    page.write_text(render(lines, tasks, metric))
    draw(lines, tasks, metric).savefig(picture, metadata={"Software": None})
    means = [line.mean for line in lines if line.subject.role == "result" and line.mean is not None]
    return Outcome(
        outputs={"comparison": Output("report", directory)},
        metrics={"best_mean": max(means)} if means else {},
        summary=described,
        figures=(page, picture),
    )


def _described(line: Line) -> dict[str, Any]:
    shown = {task: _shown(entry) for task, entry in line.entries.items()}
    means = {"mean": line.mean, "normalised": line.normalised, "on_front": line.on_front}
    return {**line.subject.model_dump(mode="json"), "tasks": shown, **means}


def _rows(line: Line, tasks: list[str]) -> list[dict[str, Any]]:
    """One row for each task, for ``comparison.parquet``."""
    made = line.subject.model_dump(mode="json")
    measured = [(task, line.entries[task]) for task in tasks if task in line.entries]
    return [{**made, "task": task, **_shown(entry)} for task, entry in measured]


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("value", "low", "high", "n")}


def render(lines: list[Line], tasks: list[str], metric: str) -> str:
    """``report.md``."""
    chosen = any(line.subject.validation is not None for line in lines)
    heads = [*map(cell, tasks), "mean", "normalised", "extra parameters", "CPU s", "peak MiB", *(["validation"] if chosen else []), "front"]
    rows = ["# Comparison", "", f"{metric}, with intervals as the reports have them.", ""]
    rows += [f"| model | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for line in lines:
        made = line.subject
        values = [f"{e['value']:.3f} ({e['low']:.3f}–{e['high']:.3f})" if (e := line.entries.get(task)) else "" for task in tasks]
        values += [_number(line.mean, ".3f"), _number(line.normalised, ".1%"), f"{made.extra_parameters:,}"]
        values += [_number(made.cpu_seconds, ".1f"), _number(made.peak_memory_bytes and made.peak_memory_bytes / 2**20, ",.0f")]
        values += [_number(made.validation, ".4f")] if chosen else []
        rows.append(f"| {cell(made.name)} | {' | '.join([*values, 'yes' if line.on_front else ''])} |")
    notes = "*normalised*: mean over tasks of the value divided by that of the task's own expert. *front*: no other result is at least as "
    notes += "good for no more CPU time. Costs are those of making the model, once its sources were there."
    notes += " *validation*: the score by which it was chosen, which flatters it." if chosen else ""
    return "\n".join([*rows, "", notes, "", "![comparison](figures/comparison.png)", ""])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
