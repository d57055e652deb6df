"""The gate's picture: how far the challenger is from the champion in each metric, and how far it may fall."""

from __future__ import annotations

from math import expm1

from matplotlib.figure import Figure

from lfm_tasks.promotion.comparison import Comparison

GOOD, BAD, OPEN, GREY = "#0072B2", "#D55E00", "#E69F00", "#9a9a9a"
COLOURS = {"better": GOOD, "holds": GOOD, "regresses": BAD, "not better": BAD, "uncertain": OPEN, None: GREY}
TITLES = {"promote": "Promote", "reject": "Reject", "ask": "Ask a person"}


def forest_plot(outcome: str, comparisons: list[Comparison], level: float) -> Figure:
    """Differences turned so that right is better, in points or percent; a mark shows the margin of what is judged."""
    figure = Figure(figsize=(9, 1.9 + 0.5 * len(comparisons)), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#444444", linewidth=1)
    rows = range(len(comparisons) - 1, -1, -1)
    for row, found in zip(rows, comparisons, strict=True):
        value, low, high = (percent(found, gain) for gain in found.gain)
        colour = COLOURS[found.verdict]
        axes.hlines(row, low, high, color=colour, linewidth=2.6 if found.verdict else 1.6)
        axes.plot(value, row, "o" if found.verdict else "D", color=colour, markersize=8 if found.verdict else 5)
        if found.margin is not None:
            bound = percent(found, found.margin if found.role == "primary" else -found.margin)
            axes.plot([bound, bound], [row - 0.17, row + 0.17], color="#444444", linewidth=1.6, linestyle=":" if bound == 0 else "-")
        axes.annotate(
            found.verdict or "", (value, row), xytext=(0, 11), textcoords="offset points", ha="center", color=colour, weight="bold"
        )
    names = {"primary": "must improve", "must_not_regress": "must not regress", "shown": "shown"}
    axes.set_yticks(list(rows), [f"{found.name}\n({names[found.role]})" for found in comparisons], fontsize=9)
    axes.set_ylim(-0.7, len(comparisons) - 0.3)
    axes.margins(x=0.18)
    axes.set_xlabel(f"← champion better        points or percent, {level:.0%} interval; upright marks: margins        challenger better →")
    axes.set_title(_title(outcome, comparisons), loc="left", fontsize=12)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _title(outcome: str, comparisons: list[Comparison]) -> str:
    """The outcome with the metrics that brought it about, or with the primary metric where none did."""
    decisive = {"promote": ("better",), "reject": ("regresses", "not better"), "ask": ("uncertain",)}[outcome]
    named = [found for found in comparisons if found.verdict in decisive] or comparisons[:1]
    return f"{TITLES[outcome]}: " + ", ".join(f"{found.name} {found.change(found.difference)}" for found in named)


def percent(found: Comparison, gain: float) -> float:
    """A gain on the metric's scale in points, or in percent of the champion's value."""
    if found.metric.scale == "log_ratio":
        return -100 * expm1(-gain) if not found.metric.higher_is_better else 100 * expm1(gain)
    return 100 * gain
