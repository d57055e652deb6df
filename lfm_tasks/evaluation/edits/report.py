"""The report of an evaluation of edits: as that of *evaluate*, so that *gate* and *compare* read it, and a table with a line a fact."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from lfm_tasks.config import canonical_json
from lfm_tasks.evaluation.edits.config import EvaluateEditsConfig
from lfm_tasks.evaluation.edits.tables import Group
from lfm_tasks.evaluation.figures import BLUE, GREY, ORANGE
from lfm_tasks.metrics.bootstrap import estimate
from lfm_tasks.metrics.catalogue import METRICS_OF, build_metric, metric_names
from lfm_tasks.metrics.metric import clustered
from lfm_tasks.metrics.samples import metric_columns, write_samples
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import Input, Outcome, Output

SCORE = ("efficacy.teacher_forced/success", "paraphrase.teacher_forced/success", "neighbourhood.teacher_forced/success")
SETTINGS = ("max_facts", "max_new_tokens", "split", "chat", "chat_message")


@dataclass(frozen=True)
class Findings:
    config: EvaluateEditsConfig
    inputs: Mapping[str, Input]
    base_sha256: str | None
    groups: Mapping[str, Group]
    lines: Sequence[Mapping[str, Any]]
    figures: Mapping[str, float]
    distances: Mapping[str, float]
    neighbours_left_out: int
    without_target_true: int


def write_report(findings: Findings, directory: Path) -> Outcome:
    """Equal findings give equal bytes."""
    (directory / "figures").mkdir(parents=True)
    write_samples(pa.concat_tables(group.table for group in findings.groups.values()), directory / "samples.parquet")
    metrics = measure(findings)
    described = describe(findings, metrics)
    (directory / "metrics.json").write_bytes(canonical_json(described) + b"\n")
    pq.write_table(pa.Table.from_pylist([dict(line) for line in findings.lines]), directory / "facts.parquet", store_schema=False)
    page, table, picture = directory / "report.md", directory / "facts.html", directory / "figures" / "edits.png"
    page.write_text(render(findings, described))
    table.write_text(html_table(findings.lines), encoding="utf-8")
    draw(metrics).savefig(picture, metadata={"Software": None})
    values = {name: entry["value"] for name, entry in metrics.items()} | described["figures"]
    summary = {name: described[name] for name in ("protocol", "metrics", "figures", "skipped")}
    return Outcome({"report": Output("report", directory)}, values, summary, (page, table, picture))


def measure(findings: Findings) -> dict[str, Any]:
    """Every metric with its interval; the questions about one fact are drawn together, and ``n`` counts facts (of text: texts)."""
    config, found = findings.config, {}
    for name, group in findings.groups.items():
        columns = metric_columns(group.table, [])
        if name.startswith("locality") and findings.base_sha256 is None:
            continue
        for full in metric_names(name):
            metric = build_metric(full, classes=0, bins=1)
            key = derive_seed(config.seed, "bootstrap", full)
            value = estimate(
                clustered(metric, group.clusters), columns, level=config.confidence_level, resamples=config.bootstrap_samples, seed=key
            )
            found[full] = {
                "value": value.value,
                "low": value.low,
                "high": value.high,
                "n": value.n,
                "higher_is_better": metric.higher_is_better,
                "unit": metric.unit,
            }
    return found


def describe(findings: Findings, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``metrics.json``. ``figures`` have no interval, and no gate reads them; it asks for bins, which no metric here has."""
    general = findings.inputs.get("general")
    return {
        "format": 1,
        "model_sha256": findings.inputs["model"].sha256,
        "base_sha256": findings.base_sha256,
        "head_sha256": None,
        "dataset_sha256": findings.inputs["facts"].sha256,
        "protocol": findings.config.protocol,
        "general_sha256": general.sha256 if general else None,
        "metrics": dict(metrics),
        "figures": figures_of(findings, metrics),
        "distances": dict(findings.distances),
        "labels": [],
        "skipped": skipped(findings, metrics),
        "untrained_head": False,
        "settings": settings_of(findings.config) | {"calibration_bins": 1},
    }


def settings_of(config: EvaluateEditsConfig) -> dict[str, Any]:
    """What must be equal for two reports to compare."""
    return {name: getattr(config, name) for name in SETTINGS}


def figures_of(findings: Findings, metrics: Mapping[str, Any]) -> dict[str, float]:
    found = dict(findings.figures)
    if all(name in metrics for name in SCORE):
        values = [metrics[name]["value"] for name in SCORE]
        found["score"] = len(values) / sum(1 / value for value in values) if all(values) else 0.0
    if "base_perplexity" in found:
        found["perplexity_ratio"] = metrics["general/perplexity"]["value"] / found["base_perplexity"]
    if findings.distances:
        found["largest_edit_distance"] = max(findings.distances.values())
    return found | {"neighbours_left_out": float(findings.neighbours_left_out)}


def skipped(findings: Findings, metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Why a metric is missing, and whether it could have been measured."""
    reasons = {"locality": "no base was given", "retention": "no earlier facts were given", "general": "no general text was given"}
    missing = [name for group in (name for name in METRICS_OF if "." in name or name == "general") for name in metric_names(group)]
    found = {}
    for name in missing:
        if name not in metrics:
            aspect = name.partition(".")[0].partition("/")[0]
            reason = reasons.get(aspect, "no fact has what it asks for")
            found[name] = {"possible": aspect in reasons, "reason": reason}
    return found


def render(findings: Findings, described: Mapping[str, Any]) -> str:
    """``report.md``."""
    level = f"{findings.config.confidence_level:.0%}"
    lines = ["# Evaluation of edits", "", f"Model `sha256:{described['model_sha256']}`"]
    if described["base_sha256"]:
        lines.append(f"beside its base `sha256:{described['base_sha256']}`")
    lines += [f"on {len(findings.lines):,} facts `sha256:{described['dataset_sha256']}`, asked by {described['protocol']}.", ""]
    lines += [f"| metric | value | {level} interval | facts | better |", "|---|---:|---:|---:|---|"]
    for name, entry in described["metrics"].items():
        interval, direction = f"{entry['low']:.4g} – {entry['high']:.4g}", "higher" if entry["higher_is_better"] else "lower"
        lines.append(f"| {name} | {entry['value']:.4g} | {interval} | {entry['n']:,} | {direction} |")
    lines += ["", "| figure | value |", "|---|---:|", *(f"| {name} | {value:.4g} |" for name, value in described["figures"].items()), ""]
    lines += [*NOTES, f"- Neighbours left out, for they were edited themselves or have the new target: {findings.neighbours_left_out:,}."]
    lines += [f"- Facts without a target_true, which success is not asked of: {findings.without_target_true:,}."]
    lines += [f"- {name} was not measured: {entry['reason']}." for name, entry in described["skipped"].items()]
    if findings.distances:
        lines += ["", "| changed weight | distance from the base |", "|---|---:|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in findings.distances.items()]
    return "\n".join([*lines, "", "![edits](figures/edits.png)", ""])


NOTES = (
    "- *teacher_forced*: the model is given the answer and asked how likely it is, exp of the mean log-probability of its tokens. "
    "*success*: the wanted answer is likelier than the other. *magnitude*: by how much.",
    "- *teacher_forced_tokens*: share of the answer's tokens that are the likeliest, given those before.",
    "- *free_running*: the model writes by itself. *prefix_match*: what it writes begins with the answer, and a word ends there. "
    "*free_running_whole/exact_match*: it writes the answer and nothing else, up to its end token or a line break.",
    "- *unchanged*: it writes what the base writes. *score*: harmonic mean of the three successes.",
)


def html_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """``facts.html``: facts whose edit is not there come first."""
    heads = list(lines[0])
    ordered = sorted(lines, key=lambda line: (line["prefix_match"], line["p_new"]))
    rows = ["<tr>" + "".join(f"<td>{_cell(line[name])}</td>" for name in heads) + "</tr>" for line in ordered]
    style = "table{border-collapse:collapse;font:13px sans-serif}td,th{border:1px solid #ccc;padding:3px 6px;text-align:left}"
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>Facts</title><style>{style}</style>\n'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table></html>\n"
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))


def draw(metrics: Mapping[str, Any]) -> Figure:
    """Every share with its interval; teacher-forced ones in another colour than free-running ones."""
    shares = {name: entry for name, entry in metrics.items() if entry["unit"].startswith("share")}
    figure = Figure(figsize=(8.2, 1.4 + 0.34 * len(shares)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for row, (name, entry) in enumerate(reversed(shares.items())):
        colour = BLUE if "free_running" in name else ORANGE
        axes.hlines(row, entry["low"], entry["high"], color=colour, linewidth=2.2)
        axes.plot(entry["value"], row, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(shares)), list(reversed(shares)))
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share, with interval")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color=GREY, alpha=0.25)
    axes.set_title("Orange: teacher-forced. Blue: free-running", loc="left", fontsize=11)
    return figure
