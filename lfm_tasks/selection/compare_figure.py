"""The comparison's picture: each model on each task, and the means against what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lfm_tasks.selection.figure import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from lfm_tasks.selection.compare import Line

COLOURS = {"base": GREY, "expert": BLUE, "result": ORANGE}


def draw(lines: list[Line], tasks: list[str], metric: str) -> Figure:
    """A panel for each task, bars with the reports' intervals; the last panel has the mean of the results by CPU time."""
    figure = Figure(figsize=(3 * (len(tasks) + 1) + 1.5, 1.2 + 0.32 * max(6, len(lines))), dpi=120, layout="constrained")
    *panels, cost = figure.subplots(1, len(tasks) + 1)
    for axes, task in zip(panels, tasks, strict=True):
        for place, line in enumerate(lines):
            if entry := line.entries.get(task):
                axes.barh(place, entry["value"], color=COLOURS[line.subject.role], alpha=0.7)
                axes.hlines(place, entry["low"], entry["high"], color="black", linewidth=1)
        axes.set_yticks(range(len(lines)), [line.subject.name for line in lines] if axes is panels[0] else [""] * len(lines), fontsize=8)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_title(task, fontsize=10, loc="left")
    costed = [line for line in lines if line.point]
    for line in costed:
        cost.plot(line.point[1], line.point[0], "o", color=ORANGE if line.on_front else GREY)
    for line in named(costed):
        cost.annotate(line.subject.name, line.point[::-1], xytext=(4, 3), textcoords="offset points", fontsize=7)
    if costed and min(line.point[1] for line in costed) > 0:
        cost.set_xscale("log")
    front = sorted(line.point[::-1] for line in lines if line.on_front)
    if len(front) > 1:
        cost.step(*zip(*front, strict=True), where="post", color=ORANGE, linestyle="--", linewidth=1)
    cost.set_xlabel("CPU seconds of making it")
    cost.set_title(f"mean {metric}", fontsize=10, loc="left")
    cost.margins(x=0.25, y=0.2)
    for axes in (*panels, cost):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def named(costed: list[Line]) -> list[Line]:
    """Those whose names have room beside their points, the front's first; the bars name all."""
    means = [line.point[0] for line in costed]
    shown: list[Line] = []

    def apart(one: Line, other: Line) -> bool:
        low, high = sorted([one.point[1], other.point[1]])
        return high > 4 * low or abs(one.point[0] - other.point[0]) >= (max(means) - min(means)) / 40

    for line in sorted(costed, key=lambda line: not line.on_front):
        if all(apart(line, one) for one in shown):
            shown.append(line)
    return shown
