"""The pictures of ``lfm demo edit``: what was written against what stayed, and what is left of rounds that others followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lfm_tasks.stack.edited import UNEDITED, Edited

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = {"alone": "o", "at once": "s", "in rounds": "^", "layer found": "D", "": "x"}


def draw(lines: Sequence[Edited]) -> Figure:
    """A colour for each method, a marker for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    points, curves = figure.subplots(1, 2)
    methods = list(dict.fromkeys(line.method for line in lines if line.method != UNEDITED))
    colours = {UNEDITED: "#8a8a8a"} | {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(methods)}
    for line in lines:
        if {"success", "neighbourhood"} <= line.metrics.keys():
            x, y = line.metrics["neighbourhood"], line.metrics["success"]
            points.plot(x, y, MARKERS[line.way], color=colours[line.method], markersize=8, alpha=0.8, label=line.name)
        if len(line.by_age) > 1:
            curves.plot(range(len(line.by_age)), line.by_age, MARKERS[line.way] + "-", color=colours[line.method], label=line.name)
    points.set_xlabel("neighbourhood: other subjects keep their answer")
    points.set_ylabel("success: the new answer is likelier than the old one")
    points.set_xlim(-0.03, 1.03)
    points.set_title("What was written, what stayed", loc="left", fontsize=11)
    curves.set_xticks(range(max(len(line.by_age) for line in lines)))
    curves.set_xlabel("rounds written after the fact's own")
    curves.set_ylabel("facts that the model says by itself, at the end")
    curves.set_title("What later rounds left of earlier ones", loc="left", fontsize=11)
    for axes in (points, curves):
        axes.set_ylim(-0.03, 1.03)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#8a8a8a", alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    return figure
