"""The step *judge_student*: how much of its teacher a student has kept, and how much faster it is, beside what it was before and
what the labels alone had made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.metrics.bootstrap import paired_bootstrap, percentile_interval
from lfm_tasks.metrics.catalogue import build_metric
from lfm_tasks.metrics.metric import Array, Metric
from lfm_tasks.metrics.primary import primary_metric
from lfm_tasks.metrics.samples import metric_columns, of_group
from lfm_tasks.models.forward import padded
from lfm_tasks.models.opening import open_model
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.promotion.reports import Report, check_comparable, read_report
from lfm_tasks.promotion.students.config import JudgeStudentConfig
from lfm_tasks.promotion.students.speed import Timing, time_in_turn
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import Input, Outcome, Output, StepContext

TINY = 1e-9
NAMES = {"teacher": "teacher", "before": "student before", "baseline": "labels alone", "student": "student"}


@dataclass(frozen=True)
class Kept:
    """A model's metric and its share of the teacher's, with the share's interval."""

    value: float
    share: float
    low: float
    high: float


def run(config: JudgeStudentConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    reports = {name: read_report(inputs[f"{name}_report"]) for name in NAMES if f"{name}_report" in inputs}
    for name, report in reports.items():
        if name != "teacher":
            check_comparable(report, reports["teacher"])
    metric = chosen_metric(config, reports["teacher"])
    kept = {name: retained(metric, report, reports["teacher"], config) for name, report in reports.items()}
    timings, sizes = measure_speed(config, inputs)
    return _write(config, metric, kept, timings, sizes, reports, context.workdir / "retention")


def chosen_metric(config: JudgeStudentConfig, report: Report) -> str:
    """Raises :class:`ConfigError` for a metric that the reports do not have."""
    measured = report.described["metrics"]
    if config.primary_metric == "auto":
        return primary_metric(measured)
    if config.primary_metric not in measured:
        raise ConfigError(f"primary_metric: {unknown_name('metric', config.primary_metric, measured)}")
    return config.primary_metric


def retained(name: str, report: Report, teacher: Report, config: JudgeStudentConfig) -> Kept:
    """By the paired bootstrap over the samples that both answered."""
    group, labels = name.partition("/")[0], teacher.described["labels"]
    metric = build_metric(name, classes=len(labels), bins=teacher.described["settings"]["calibration_bins"])
    ours, theirs = (metric.features(metric_columns(of_group(one.samples, group), labels)) for one in (report, teacher))
    values = [metric.statistic(features.sum(axis=0)) for features in (ours, theirs)]
    draws = paired_bootstrap(ours, theirs, metric.statistic, config.bootstrap_samples, derive_seed(config.seed, "retained", name))
    low, high = percentile_interval(share(metric, *draws), config.confidence_level)
    return Kept(float(values[0]), float(share(metric, *values)), low, high)


def share(metric: Metric, ours: Array, teachers: Array) -> Array:
    """What is kept, more being better: the quotient, or for a metric that is better when lower its inverse. Nothing kept of nothing is a
    large number."""
    return ours / np.maximum(teachers, TINY) if metric.higher_is_better else teachers / ours


def measure_speed(config: JudgeStudentConfig, inputs: Mapping[str, Input]) -> tuple[list[Timing], list[int]]:
    """Timings and numbers of parameters of teacher and student."""
    rows = read_rows(inputs["dataset"].path, "validation", config.rows).input_ids
    models = [open_model(inputs[name]).to("cuda" if torch.cuda.is_available() else "cpu") for name in ("teacher", "student")]
    batches = [padded(rows[start : start + config.batch_size], 0) for start in range(0, len(rows), config.batch_size)]
    return time_in_turn(models, batches, config.repeats), [sum(one.numel() for one in model.parameters()) for model in models]


def _write(
    config: JudgeStudentConfig,
    metric: str,
    kept: dict[str, Kept],
    timings: list[Timing],
    sizes: list[int],
    reports: dict[str, Report],
    directory: Path,
) -> Outcome:
    directory.mkdir(parents=True)
    student, speedup = kept["student"], timings[0].median / timings[1].median
    enough = (student.low if config.certain else student.share) >= config.min_retained
    passed = enough and speedup >= config.min_speedup
    described: dict[str, Any] = {
        "format": 1,
        "metric": metric,
        "models": {name: reports[name].model_sha256 for name in kept},
        "kept": {name: vars(one) for name, one in kept.items()},
        "seconds": {name: timing.seconds for name, timing in zip(("teacher", "student"), timings, strict=True)},
        "speedup": speedup,
        "parameters": dict(zip(("teacher", "student"), sizes, strict=True)),
        "asked": {"min_retained": config.min_retained, "certain": config.certain, "min_speedup": config.min_speedup},
        "passed": passed,
    }
    (directory / "retention.json").write_bytes(canonical_json(described) + b"\n")
    page = directory / "report.md"
    page.write_text(render(config, described))
    metrics = {"retained": student.share, "retained_low": student.low, "speedup": speedup, "share_of_parameters": sizes[1] / sizes[0]}
    if "baseline" in kept:
        metrics["retained_baseline"] = kept["baseline"].share
    return Outcome(
        outputs={"retention": Output("report", directory)},
        metrics=metrics,
        summary={"passed": passed, "metric": metric, **metrics},
        figures=(page,),
    )


def render(config: JudgeStudentConfig, described: Mapping[str, Any]) -> str:
    """``report.md``."""
    level = f"{config.confidence_level:.0%}"
    lines = [
        "# Student and teacher",
        "",
        f"| model | {described['metric']} | share of the teacher's ({level} interval) | parameters | seconds a pass |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, title in NAMES.items():
        if name in described["kept"]:
            one = described["kept"][name]
            size, seconds = described["parameters"].get(name), described["seconds"].get(name)
            shown = f"{sorted(seconds)[len(seconds) // 2]:.4g}" if seconds else ""
            lines.append(
                f"| {title} | {one['value']:.4g} | {one['share']:.1%} ({one['low']:.1%} – {one['high']:.1%}) "
                f"| {f'{size:,}' if size else ''} | {shown} |"
            )
    asked = f"at least {config.min_retained:.0%} of the teacher's{', the whole interval,' if config.certain else ''} and "
    asked += f"{config.min_speedup:g} times its speed"
    verdict = "It is good enough" if described["passed"] else "It is not good enough"
    return "\n".join([*lines, "", f"The student is {described['speedup']:.2f} times as fast. {verdict}: asked were {asked}.", ""])
