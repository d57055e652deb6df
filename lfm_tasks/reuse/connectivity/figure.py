"""The picture of a path: loss and accuracy by place, and the line that the barrier is measured from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lfm_tasks.reuse.connectivity.path import Point

COLOURS = {"line": "#D55E00", "bezier": "#0072B2"}
NAMES = {"line": "straight line", "bezier": "trained Bezier curve"}
GREY = "#8a8a8a"


def draw(curves: Mapping[str, Sequence[Point]], barrier: float) -> Figure:
    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    straight = curves["line"]
    left.plot([0, 1], [straight[0].loss, straight[-1].loss], color=GREY, linestyle="--", linewidth=1.2, label="no barrier")
    for name, points in curves.items():
        places = [point.a for point in points]
        style = {"color": COLOURS[name], "label": NAMES[name], "markersize": 4}
        left.plot(places, [point.loss for point in points], "-o", **style)
        right.plot(places, [point.accuracy for point in points], "-o", **style)
    left.set_title(f"Barrier on the straight line: {barrier:.3g} nats", loc="left", fontsize=11)
    left.set_ylabel("loss (nats)")
    right.set_ylabel("accuracy")
    right.set_ylim(-0.02, 1.02)
    left.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel("way from the first model (0) to the second (1)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
