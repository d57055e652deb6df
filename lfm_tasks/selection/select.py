"""The step *select*: one table of a sweep's candidates, the Pareto front of metric and cost, and the best on validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ConfigError, DataError, unknown_name
from lfm_tasks.markdown import cell
from lfm_tasks.metrics.primary import primary_metric
from lfm_tasks.selection.config import Candidate, SelectConfig
from lfm_tasks.selection.figure import draw
from lfm_tasks.selection.pareto import pareto_front
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of

SAME = ("dataset_sha256", "general_sha256", "settings")


@dataclass
class Row:
    """A candidate with its measured metric. ``gain`` is the value turned so that more is better; None where it failed."""

    candidate: Candidate
    report: dict[str, Any] | None
    entry: dict[str, Any] | None
    on_front: bool = False

    @property
    def label(self) -> str:
        return label(self.candidate.settings)

    @property
    def gain(self) -> float | None:
        if self.entry is None:
            return None
        return self.entry["value"] if self.entry["higher_is_better"] else -self.entry["value"]

    def to_json(self) -> dict[str, Any]:
        shown = {name: self.entry[name] if self.entry else None for name in ("value", "low", "high", "n")}
        model = self.report["model_sha256"] if self.report else None
        cost = {"tflop": self.candidate.tflop, "on_front": self.on_front, "failed": self.entry is None}
        return {"settings": self.candidate.settings, "model_sha256": model, **shown, **cost}


def run(config: SelectConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    reports = [read_report(source) for source in all_of(inputs, "reports")]
    check_comparable(reports)
    metric = choose_metric(config.metric, reports)
    rows = pair(config.candidates or [Candidate(settings={"report": place}) for place in range(len(reports))], reports, metric)
    mark_front(rows)
    best = choose(rows)
    context.log(f"Best of {len(reports)} on validation by {metric}: {best.label} ({best.entry['value']:.4g}).")
    return _write(metric, rows, best, context.workdir / "selection")


def read_report(source: Input) -> dict[str, Any]:
    path = source.path / "metrics.json"
    if not path.is_file():
        raise DataError(f"{source.reference} is no evaluation report: it lacks metrics.json. Give the output of evaluate.")
    return json.loads(path.read_text())


def check_comparable(reports: list[dict[str, Any]]) -> None:
    """Raise unless all reports are of one validation split, measured in one way: a choice on test would spoil the test."""
    for report in reports:
        for name in SAME:
            if report[name] != reports[0][name]:
                raise DataError(
                    f"The reports differ in {name}: {reports[0][name]} and {report[name]}. Evaluate all candidates in the same way."
                )
    if reports[0]["settings"]["split"] != "validation":
        raise DataError(
            f"The reports are of the {reports[0]['settings']['split']} split. The best is chosen on validation, so that its figure "
            "on test is not the luckiest of many: evaluate the candidates with split=validation."
        )


def choose_metric(wanted: str, reports: list[dict[str, Any]]) -> str:
    measured = reports[0]["metrics"]
    if wanted == "auto":
        return primary_metric(measured)
    if wanted not in measured:
        raise ConfigError(f"metric: {unknown_name('metric', wanted, measured)}")
    return wanted


def pair(candidates: list[Candidate], reports: list[dict[str, Any]], metric: str) -> list[Row]:
    """Each candidate beside its report, in the candidates' order."""
    waiting, expected = list(reports), sum(not candidate.failed for candidate in candidates)
    if expected != len(reports):
        raise ConfigError(f"candidates names {expected} that did not fail, but there are {len(reports)} reports. Give one for each.")
    rows = []
    for candidate in candidates:
        report = None if candidate.failed else waiting.pop(0)
        rows.append(Row(candidate, report, report["metrics"][metric] if report else None))
    return rows


def mark_front(rows: list[Row]) -> None:
    """Mark the candidates that no other beats in both, as far as their costs are known."""
    known = [row for row in rows if row.gain is not None and row.candidate.tflop is not None]
    for row, on_front in zip(known, pareto_front([(row.gain, row.candidate.tflop) for row in known]), strict=True):
        row.on_front = on_front


def choose(rows: list[Row]) -> Row:
    """The best by the metric; of equals the cheapest, then the first."""
    return min((row for row in rows if row.gain is not None), key=lambda row: (-row.gain, row.candidate.tflop or 0.0))


def label(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()) or "base"


def _write(metric: str, rows: list[Row], best: Row, directory: Path) -> Outcome:
    (directory / "figures").mkdir(parents=True)
    table = [row.to_json() for row in rows]
    described = {"format": 1, "metric": metric, "split": "validation", "best": best.to_json(), "candidates": table}
    described |= {name: best.report[name] for name in ("dataset_sha256", "general_sha256", "settings")}
    (directory / "selection.json").write_bytes(canonical_json(described) + b"\n")
    picture, page = directory / "figures" / "pareto.png", directory / "report.md"
    draw(metric, rows, best).savefig(picture, metadata={"Software": None})
    page.write_text(_render(metric, rows, best))
    measured = [row for row in rows if row.entry]
    return Outcome(
        outputs={"selection": Output("report", directory)},
        metrics={"best": best.entry["value"], "candidates": float(len(rows)), "failed": float(len(rows) - len(measured))},
        summary={"metric": metric, "best": best.to_json(), "table": table},
        figures=(page, picture),
    )


def _render(metric: str, rows: list[Row], best: Row) -> str:
    """``report.md``: best first, failures last."""
    lines = ["# Selection", "", f"Best on validation by {metric}: **{best.label}**.", ""]
    rivals = sum(row is not best and overlap(row.entry, best.entry) for row in rows if row.entry)
    if rivals:
        lines += [f"Others whose interval overlaps its own: {rivals}. The validation samples do not tell these apart.", ""]
    lines += [f"| candidate | {metric} | 95% interval | compute (TFLOP) | front | model |", "|---|---:|---:|---:|---|---|"]
    for row in sorted(rows, key=lambda row: (row.gain is None, -(row.gain or 0.0))):
        cost = "" if row.candidate.tflop is None else f"{row.candidate.tflop:.3g}"
        if row.entry is None:
            lines.append(f"| {cell(row.label)} | failed | | {cost} | | |")
            continue
        interval = f"{row.entry['low']:.4g} – {row.entry['high']:.4g}"
        mark = "yes" if row.on_front else ""
        lines.append(
            f"| {cell(row.label)} | {row.entry['value']:.4g} | {interval} | {cost} | {mark} | `{row.report['model_sha256'][:12]}` |"
        )
    compute = "Compute is counted, not timed: tokens seen x (4 x all parameters + 2 x trained parameters)."
    return "\n".join([*lines, "", compute, "", "![metric and cost](figures/pareto.png)", ""])


def overlap(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one["low"] <= other["high"] and other["low"] <= one["high"]
