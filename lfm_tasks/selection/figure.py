"""The selection's picture: metric against compute, with the front drawn and the best named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from lfm_tasks.selection.select import Row

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9a9a9a"


def draw(metric: str, rows: list[Row], best: Row) -> Figure:
    """Candidates with a known cost by compute, else by their place in the sweep. Bars are the reports' intervals."""
    measured = [row for row in rows if row.entry]
    by_cost = all(row.candidate.tflop is not None for row in measured)
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    places = [row.candidate.tflop if by_cost else place for place, row in enumerate(measured, start=1)]
    for x, row in zip(places, measured, strict=True):
        colour = ORANGE if row is best else BLUE if row.on_front else GREY
        axes.vlines(x, row.entry["low"], row.entry["high"], color=colour, alpha=0.45, linewidth=2)
        axes.plot(x, row.entry["value"], "*" if row is best else "o", color=colour, markersize=14 if row is best else 7)
        if row is best or row.on_front:
            side, shift = ("right", -8) if x > 0.6 * max(places) else ("left", 8)
            at = {"xytext": (shift, 6), "textcoords": "offset points", "ha": side}
            axes.annotate(row.label, (x, row.entry["value"]), fontsize=8, color=colour, **at)
    front = sorted((row.candidate.tflop, row.entry["value"]) for row in measured if row.on_front)
    if by_cost and len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=BLUE, linewidth=1.2, linestyle="--", label="Pareto front")
        axes.legend(frameon=False)
    axes.set_xlabel("training compute (TFLOP)" if by_cost else "candidate")
    axes.set_ylabel(f"{metric} on validation")
    axes.set_title(f"{best.label} is best: {metric} {best.entry['value']:.4g}", loc="left", fontsize=12)
    axes.margins(x=0.12, y=0.15)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
