"""The report of a sweep over layers, and the step *choose_edit_layer*, which makes one of several tasks' reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lfm_tasks.config import canonical_json
from lfm_tasks.editing.sweep_config import ChooseEditLayerConfig
from lfm_tasks.errors import ConfigError
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of

Row = dict[str, Any]
TABLE = "sweep.json"
COLOURS = {"success": "#0072B2", "paraphrase": "#56B4E9", "neighbourhood": "#009E73", "score": "#D55E00"}
"""Of Okabe and Ito, which colour-blind people tell apart."""


def run(config: ChooseEditLayerConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Raises :class:`ConfigError` for a report of another step, and for sweeps of several methods."""
    rows, methods, facts = [], [], {}
    for report in all_of(inputs, "reports"):
        path = report.path / TABLE
        if not path.is_file():
            raise ConfigError(f"{report.reference} has no {TABLE}: it is the report of another step. Give those of sweep_edit_layers.")
        described = json.loads(path.read_text())
        rows += described["candidates"]
        methods.append(described["method"])
        facts = described["facts"]
    if len(set(methods)) > 1:
        raise ConfigError(
            f"The reports are of the methods {', '.join(sorted(set(methods)))}; scores of one method compare. Choose for each."
        )
    return write_report(rows, methods[0], config.tolerance, context.workdir / "report", facts)


def choose(rows: Sequence[Row], tolerance: float) -> Row:
    """Of those whose score is near to the best one, the earliest layer's; of these the best."""
    best = max(row["score"] for row in rows)
    return min((row for row in rows if row["score"] >= best - tolerance), key=lambda row: (row["layer"], -row["score"]))


def write_report(rows: Sequence[Row], method: str, tolerance: float, directory: Path, facts: Mapping[str, int]) -> Outcome:
    """``facts``: how many were ``tried``, and how many of these are to be ``edited``. Equal rows give equal bytes."""
    (directory / "figures").mkdir(parents=True)
    rows = sorted(rows, key=lambda row: (row["layer"], canonical_json(row["options"])))
    best = choose(rows, tolerance)
    (directory / TABLE).write_bytes(canonical_json({"method": method, "facts": facts, "candidates": rows, "best": best}) + b"\n")
    page, picture = directory / "report.md", directory / "figures" / "sweep.png"
    page.write_text(render(rows, method, best, facts))
    draw(rows, method, best).savefig(picture, metadata={"Software": None})
    metrics = {f"best/{name}": float(value) for name, value in best.items() if isinstance(value, int | float)}
    summary = {
        "method": method,
        "best": {"layer": best["layer"], "options": best["options"], "score": best["score"]},
        "candidates": len(rows),
        "facts": dict(facts),
    }
    return Outcome({"report": Output("report", directory)}, metrics, summary, (page, picture))


def render(rows: Sequence[Row], method: str, best: Row, facts: Mapping[str, int]) -> str:
    lines = [
        f"# {method}: layer {best['layer']} is chosen, score {best['score']:.3f}",
        "",
        f"{facts['tried']} facts, {facts['edited']} of which are to be edited, each edited alone. Shares in %; *free*: the model left to "
        "itself says the new target; perplexity and change beside the base.",
        "",
        "| layer | options | success | paraphrase | neighbourhood | free | perplexity | change | score |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        options = ", ".join(f"{name} {value}" for name, value in row["options"].items() if name != "layer") or "-"
        shares = [_percent(row[name]) for name in ("success", "paraphrase", "neighbourhood", "free")]
        numbers = [f"{row['perplexity_ratio']:.3f}", f"{row['relative_change']:.3f}", f"{row['score']:.3f}"]
        mark = " **←**" if row is best else ""
        lines.append("| " + " | ".join([f"{row['layer']}{mark}", options, *shares, *numbers]) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], method: str, best: Row) -> Figure:
    """Of each layer its best candidate."""
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    layers = sorted({row["layer"] for row in rows})
    shown = [max((row for row in rows if row["layer"] == layer), key=lambda row: row["score"]) for layer in layers]
    for name, colour in COLOURS.items():
        points = [(row["layer"], row[name]) for row in shown if row[name] is not None]
        width = 2.5 if name == "score" else 1.2
        axes.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=width, markersize=4, label=name)
    axes.axvline(best["layer"], color="#8a8a8a", linestyle="--", linewidth=1)
    axes.set_xlabel("edited layer")
    axes.set_xticks(layers)
    axes.set_ylim(top=1.05)
    axes.set_title(f"{method}: layer {best['layer']} takes edits best", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"
