"""The step *replay*: rebuild an artifact from its records, step by step, and say of each whether the same came out again.

Every step works on the inputs that its record names, so that a step which differs is found where it differs and not in
all that follow. The replay is one attempt in MLflow, of the step *replay*: the steps inside it open none, and neither
registry nor ledger can be reached from them. What changes the world (promote, approve, rollback) is never done again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import AttemptKilled, LfmError, ReferenceRefused, Unavailable
from lfm_tasks.markdown import escape
from lfm_tasks.runner.config import ReplayConfig
from lfm_tasks.runner.context import RunningContext
from lfm_tasks.runner.distance import artifact_distance, metrics_distance
from lfm_tasks.runner.environment import environment, git_commit
from lfm_tasks.runner.reasons import reasons
from lfm_tasks.runner.rebuild import Workshop, plan_replay
from lfm_tasks.step import Input, Outcome, Output
from lfm_tasks.steps import STEPS
from lfm_tasks.tracking.lineage import Graph

Verdict = Literal["identical", "kept", "within tolerance", "diverged", "failed"]
ORDER: tuple[Verdict, ...] = ("identical", "kept", "within tolerance", "diverged", "failed")
GOOD = ("identical", "kept", "within tolerance")


@dataclass(frozen=True)
class StepReplay:
    """``difference`` is the largest relative difference (None where there is none to measure), at ``where``."""

    record: str
    step: str
    method: str | None
    verdict: Verdict
    outputs: dict[str, dict[str, str]]
    difference: float | None = None
    where: str = ""
    files: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)


def run(config: ReplayConfig, inputs: Mapping[str, Input], context: RunningContext) -> Outcome:
    store, target = context.tracker.store, inputs["artifact"]
    graph = Graph.from_records(store.records())
    plan = plan_replay(graph, target.sha256)
    scratch = Store.open(f"file://{context.workdir / 'scratch'}")
    workshop = Workshop(store, scratch, context.settings.home / "downloads", context)
    done: list[StepReplay] = []
    for place, address in enumerate(plan, start=1):
        record = graph.records[address]
        context.log(f"{place}/{len(plan)} {record['step']} {record.get('method') or ''} (record {address[:12]})")
        done.append(replay_step(workshop, address, record, config.tolerance))
        context.log(f"  {done[-1].verdict}{_how_far(done[-1])} {' '.join(done[-1].why)}".rstrip())
        context.report(place, len(plan))
    return _write(config, target, done, context)


def replay_step(workshop: Workshop, address: str, record: Mapping[str, Any], tolerance: float) -> StepReplay:
    """Do the record again and compare. What the step raises becomes the verdict "failed"; a request to stop goes through."""
    made = {name: {"recorded": entry["sha256"]} for name, entry in record["outputs"].items()}
    about = {"record": address, "step": record["step"], "method": record.get("method"), "outputs": made}
    if record["step"] in STEPS and not STEPS[record["step"]].cached:
        return StepReplay(**about, verdict="kept", why=["What it did changed the world or was a person's answer; it is not done again."])
    try:
        outcome, outputs, notes = workshop.rebuild(record)
    except (AttemptKilled, Unavailable):
        raise
    except Exception as error:
        why = [f"{type(error).__name__}: {error}", *(reasons(record, workshop.store) if record["step"] in STEPS else [])]
        return StepReplay(**about, verdict="failed", why=why if not isinstance(error, ReferenceRefused) else why[:1])
    for name, artifact in outputs.items():
        made.setdefault(name, {"recorded": ""})["rebuilt"] = artifact.sha256
    if all(pair["recorded"] == pair.get("rebuilt") for pair in made.values()):
        return StepReplay(**about, verdict="identical", difference=0.0, why=notes)
    difference, where, files = _distance(workshop, record, outcome, outputs)
    verdict: Verdict = "within tolerance" if difference <= tolerance else "diverged"
    why = [*notes, *reasons(record, workshop.store)]
    return StepReplay(**about, verdict=verdict, difference=_finite(difference), where=where, files=files, why=why)


def _distance(
    workshop: Workshop, record: Mapping[str, Any], outcome: Outcome, outputs: dict[str, Artifact]
) -> tuple[float, str, list[str]]:
    """The largest relative difference over the outputs and the metrics, where it is, and the files whose bytes differ."""
    difference, where = metrics_distance(record["metrics"], outcome.metrics)
    found, files = [(difference, f"metric {where}")], []
    for name, entry in record["outputs"].items():
        if name not in outputs:
            found.append((math.inf, f"output {name}, which was not made"))
        elif outputs[name].sha256 != entry["sha256"]:
            try:
                recorded = workshop.store.find(entry["sha256"])
                path = workshop.store.materialise(recorded, workshop.downloads)
            except LfmError as error:
                found.append((math.inf, f"output {name}, whose recorded bytes cannot be read ({error})"))
                continue
            rebuilt = workshop.scratch.materialise(outputs[name], workshop.downloads)
            measured = artifact_distance(path, rebuilt, recorded, outputs[name])
            found.append((measured["difference"], f"{name}: {measured['where']}"))
            files += [f"{name}/{file}" for file in measured["files"]]
    return *max(found, key=lambda pair: pair[0]), files


def _write(config: ReplayConfig, target: Input, done: list[StepReplay], context: RunningContext) -> Outcome:
    worst = max((step.verdict for step in done), key=ORDER.index)
    first = next((step for step in done if step.verdict == worst), None) if worst not in ("identical", "kept") else None
    described = {
        "format": 1,
        "artifact": {"kind": target.kind, "sha256": target.sha256},
        "verdict": "identical" if worst == "kept" else worst,
        "tolerance": config.tolerance,
        "first_difference": asdict(first) if first else None,
        "steps": [asdict(step) for step in done],
        "environment": environment(),
        "git_commit": git_commit(),
    }
    directory = context.workdir / "report"
    directory.mkdir()
    (directory / "replay.json").write_text(json.dumps(described, indent=1, allow_nan=False) + "\n")
    (directory / "report.md").write_text(_page(described, done))
    counts = {verdict.replace(" ", "_"): float(sum(step.verdict == verdict for step in done)) for verdict in ORDER}
    measured = [step.difference for step in done if step.difference is not None]
    metrics = counts | {"steps": float(len(done)), "max_relative_difference": max(measured, default=0.0)}
    summary = {"verdict": described["verdict"], "artifact": target.sha256, "steps": len(done)}
    if first:
        summary["first_difference"] = {"step": first.step, "record": first.record, "verdict": first.verdict, "why": first.why}
    return Outcome({"report": Output("report", directory)}, metrics, summary, (directory / "report.md",))


def _page(described: dict[str, Any], done: list[StepReplay]) -> str:
    target = described["artifact"]
    what = f"{target['kind'].capitalize()} `sha256:{target['sha256']}`"
    lines = [f"# Replay: {described['verdict']}", "", f"{what}, rebuilt from its records.", ""]
    lines += ["| step | record | verdict | largest relative difference | why |", "|---|---|---|---|---|"]
    for step in done:
        why = escape(" ".join(step.why))
        lines.append(f"| {step.step} {step.method or ''} | `{step.record[:12]}` | {step.verdict} | {_how_far(step).strip(' ()')} | {why} |")
    return "\n".join([*lines, ""])


def _how_far(step: StepReplay) -> str:
    if step.verdict in ("identical", "kept", "failed"):
        return ""
    return f" ({'not comparable' if step.difference is None else f'{step.difference:.3g}'} at {step.where})"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
