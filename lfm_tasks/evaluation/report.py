"""The report of an evaluation: numbers for programs, samples for the gate, a page and pictures for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lfm_tasks.config import canonical_json
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.figures import draw_group
from lfm_tasks.markdown import escape
from lfm_tasks.metrics.answers import split_at_answer
from lfm_tasks.metrics.catalogue import LABELLED, METRICS_OF
from lfm_tasks.metrics.samples import measure, of_group, write_samples
from lfm_tasks.step import Input, Outcome, Output

Skipped = dict[str, dict[str, Any]]
SETTINGS = ("split", "max_samples", "length_normalised", "max_new_tokens", "calibration_bins", "backend")
WORST_SHOWN = 10
TEXT_SHOWN = 60


@dataclass(frozen=True)
class Findings:
    """What was found about a model, or an ensemble of them: ``model_sha256`` is its address or the digest that it goes by, ``title``
    its line in the page. ``fresh`` names modules drawn at random; ``skipped`` says why a metric is missing; ``asked`` counts the
    rows that each group could choose from; ``section`` is what the page adds below the metrics."""

    config: EvaluateConfig
    model_sha256: str
    title: str
    inputs: dict[str, Input]
    tables: dict[str, pa.Table]
    labels: list[str]
    skipped: Skipped
    fresh: list[str]
    asked: dict[str, int]
    section: tuple[str, ...] = ()


def write_report(findings: Findings, directory: Path) -> Outcome:
    """Write the report artifact. Equal findings give equal bytes."""
    (directory / "figures").mkdir(parents=True)
    samples = pa.concat_tables(findings.tables.values())
    write_samples(samples, directory / "samples.parquet")
    metrics = _metrics(findings, samples)
    described = describe(findings, metrics)
    (directory / "metrics.json").write_bytes(canonical_json(described) + b"\n")
    figures = []
    for group, table in findings.tables.items():
        figures += draw_group(group, table, findings.labels, findings.config, directory / "figures")
    page = directory / "report.md"
    page.write_text(render(findings, described, figures))
    summary = {name: described[name] for name in ("metrics", "untrained_head", "skipped")}
    return Outcome(
        outputs={"report": Output("report", directory)},
        metrics={name: entry["value"] for name, entry in metrics.items()},
        summary=summary,
        figures=(page, *figures),
    )


def describe(findings: Findings, metrics: dict[str, Any]) -> dict[str, Any]:
    """The content of ``metrics.json``."""
    general = findings.inputs.get("general") if "general" in findings.tables else None
    return {
        "format": 1,
        "model_sha256": findings.model_sha256,
        "head_sha256": findings.inputs["head"].sha256 if "head" in findings.inputs else None,
        "dataset_sha256": findings.inputs["dataset"].sha256,
        "general_sha256": general.sha256 if general else None,
        "metrics": metrics,
        "labels": findings.labels,
        "skipped": findings.skipped,
        "untrained_head": bool(findings.fresh),
        "settings": asked_how(findings.config),
    }


def asked_how(config: EvaluateConfig) -> dict[str, Any]:
    """The options that reports must share to be compared. Marks are named where there are some: reports from before there were any
    stay comparable."""
    marks = {"answer_marks": config.answer_marks} if config.answer_marks else {}
    return {name: getattr(config, name) for name in SETTINGS} | marks


def _metrics(findings: Findings, samples: pa.Table) -> dict[str, Any]:
    config, found = findings.config, {}
    options = {
        "bins": config.calibration_bins,
        "level": config.confidence_level,
        "resamples": config.bootstrap_samples,
        "seed": config.seed,
    }
    for group in findings.tables:
        for name, (metric, estimate) in measure(of_group(samples, group), group, findings.labels, **options).items():
            found[name] = {
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "higher_is_better": metric.higher_is_better,
                "unit": metric.unit,
            }
    return found


def render(findings: Findings, described: dict[str, Any], figures: list[Path]) -> str:
    """``report.md``."""
    level = f"{findings.config.confidence_level:.0%}"
    lines = ["# Evaluation", "", findings.title]
    if described["head_sha256"]:
        lines.append(f"with the head of `sha256:{described['head_sha256']}`")
    lines += [f"on data set `sha256:{described['dataset_sha256']}`,"]
    lines += [f"split *{findings.config.split}*.", ""]
    if findings.fresh:
        lines += [
            f"> **The head ({', '.join(findings.fresh)}) was never trained**: it was drawn at random, so this is the level of chance.",
            "",
        ]
    lines += [f"| metric | value | {level} interval | samples | better |", "|---|---:|---:|---:|---|"]
    for name, entry in described["metrics"].items():
        interval = f"{entry['low']:.4g} – {entry['high']:.4g}"
        direction = "higher" if entry["higher_is_better"] else "lower"
        lines.append(f"| {name} | {entry['value']:.4g} | {interval} | {entry['n']:,} | {direction} |")
    lines += ["", *findings.section, *_notes(findings), *[f"![{path.stem}](figures/{path.name})" for path in figures], ""]
    for group, table in findings.tables.items():
        lines += _worst(group, table)
    return "\n".join(lines)


def _notes(findings: Findings) -> list[str]:
    left = {group: findings.asked[group] - table.num_rows for group, table in findings.tables.items()}
    notes = [
        f"- {group}: {count:,} of {findings.asked[group]:,} rows end in none of the choices." for group, count in left.items() if count
    ]
    notes += [
        f"- {group}: {count:,} of {table.num_rows:,} texts hold none of the answer marks; the first line of each is its answer."
        for group, table in findings.tables.items()
        if (count := _unmarked(table, findings.config.answer_marks))
    ]
    notes += [f"- {name} was not measured: {entry['reason']}." for name, entry in findings.skipped.items()]
    return [*notes, ""] if notes else []


def _unmarked(table: pa.Table, marks: list[str]) -> int:
    return sum(split_at_answer(text, marks) is None for text in table["text"].to_pylist() if text is not None)


def _worst(group: str, table: pa.Table) -> list[str]:
    """The mistakes that the model was surest of, or the texts that surprised it most."""
    if METRICS_OF[group] == LABELLED:
        rows = sorted((r for r in table.to_pylist() if not r["correct"]), key=lambda r: (-r["confidence"], r["sample_id"]))
        header, title = "| sample | target | prediction | confidence |", f"{len(rows):,} of {table.num_rows:,} wrong; the surest"
        lines = [f"| `{r['sample_id'][:12]}` | {_cell(r['target'])} | {_cell(r['prediction'])} | {r['confidence']:.2f} |" for r in rows]
    elif group == "generation":
        rows = [r for r in table.to_pylist() if not r["correct"]]
        header, title = "| sample | target | answer |", f"{len(rows):,} of {table.num_rows:,} wrong; the first"
        shown = ["target", "prediction"]
        if table["text"].null_count == 0:
            header, shown = f"{header} text |", [*shown, "text"]
        lines = [f"| `{r['sample_id'][:12]}` | {' | '.join(_cell(r[name]) for name in shown)} |" for r in rows]
    else:
        rows = sorted((r for r in table.to_pylist() if r["tokens"]), key=lambda r: (-r["nll"] / r["tokens"], r["sample_id"]))
        header, title = "| sample | nats per token | tokens |", "most surprising"
        lines = [f"| `{r['sample_id'][:12]}` | {r['nll'] / r['tokens']:.3f} | {r['tokens']:,} |" for r in rows]
    if not lines:
        return [f"## {group}: nothing wrong", ""]
    return [f"## {group}: {title}", "", header, "|---" * (header.count("|") - 1) + "|", *lines[:WORST_SHOWN], ""]


def _cell(text: str) -> str:
    """``text`` as one cell of a Markdown table: no markup of its own, one line, not too long."""
    return escape(text[:TEXT_SHOWN] + ("…" if len(text) > TEXT_SHOWN else ""))
