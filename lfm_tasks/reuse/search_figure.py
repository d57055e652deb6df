"""The search's picture: score by the option where one number is varied, else by trial, with the best so far."""

from __future__ import annotations

from itertools import accumulate

from matplotlib.figure import Figure

from lfm_tasks.reuse.search_config import SearchMergeConfig
from lfm_tasks.reuse.trials import Trial

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9a9a9a"


def draw(config: SearchMergeConfig, candidates: list[Trial], best: Trial, default: Trial, single: Trial) -> Figure:
    option = next(iter(config.search))
    values, scores = [trial.options[option] for trial in candidates], [trial.rank(config)[0] for trial in candidates]
    by_option = len(config.search) == 1 and all(isinstance(value, int | float) for value in values)
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    if by_option:
        places = values
        axes.plot(*zip(*sorted(zip(values, scores, strict=True)), strict=True), "o-" if config.strategy == "grid" else "o", color=BLUE)
        axes.set_xlabel(option)
    else:
        places = range(1, len(candidates) + 1)
        axes.plot(places, scores, "o", color=BLUE, alpha=0.6)
        axes.step(places, list(accumulate(scores, max)), where="post", color=BLUE, linewidth=1.2, label="best so far")
        axes.set_xlabel("trial")
    axes.plot(places[candidates.index(best)], best.rank(config)[0], "*", color=ORANGE, markersize=15)
    for trial, style, what in ((default, "--", "defaults"), (single, ":", "best single model")):
        axes.axhline(trial.rank(config)[0], color=GREY, linestyle=style, label=what)
    axes.set_ylabel(f"{config.score} on validation, {config.over} over the tasks")
    axes.set_title(f"{config.method}: {best.label} is best", loc="left", fontsize=12)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
