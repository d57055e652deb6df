"""A search's outcome for people and programs: all trials as JSON and CSV, a page and a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from lfm_tasks.config import canonical_json
from lfm_tasks.markdown import cell
from lfm_tasks.reuse.search_config import SearchMergeConfig
from lfm_tasks.reuse.search_figure import draw
from lfm_tasks.reuse.trials import Trial, Trials
from lfm_tasks.step import Outcome

SHOWN = 50
"""Most candidates of the page; the tables have all."""


def write_report(config: SearchMergeConfig, trials: Trials, best: Trial, tasks: list[tuple[str, int]], directory: Path) -> Outcome:
    """``tasks``: name and number of rows of each. The outcome has no outputs yet."""
    (directory / "figures").mkdir(parents=True)
    default, single = trials.of("default")[0], max(trials.of("model"), key=lambda trial: trial.rank(config))
    named = {"best": best, "default": default, "best_single": single}
    scores = {f"{name}_score": trial.rank(config)[0] for name, trial in named.items()}
    described = {
        "format": 1,
        **config.model_dump(mode="json", include={"method", "strategy", "score", "over"}),
        "tasks": [{"name": name, "rows": rows} for name, rows in tasks],
        **{name: trial.to_json(config) for name, trial in named.items()},
    }
    whole = {**described, "trials": [trial.to_json(config) for trial in trials.done]}
    (directory / "trials.json").write_bytes(canonical_json(whole) + b"\n")
    write_table(config, trials.done, [name for name, _ in tasks], directory / "trials.csv")
    page, picture = directory / "report.md", directory / "figures" / "trials.png"
    page.write_text(render(config, trials, best, default, single, tasks))
    draw(config, trials.of("candidate"), best, default, single).savefig(picture, metadata={"Software": None})
    return Outcome({}, {"trials": float(len(trials.of("candidate"))), **scores}, described, (page, picture))


def write_table(config: SearchMergeConfig, trials: list[Trial], tasks: list[str], path: Path) -> None:
    measures = [f"{name} {measure}" for name in tasks for measure in ("accuracy", "log_likelihood")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "model", *config.search, "score", *measures])
        for trial in trials:
            values = [value for one in trial.scores for value in (one.accuracy, one.log_likelihood)]
            writer.writerow([trial.kind, trial.name, *(trial.options.get(name) for name in config.search), trial.rank(config)[0], *values])


def render(config: SearchMergeConfig, trials: Trials, best: Trial, default: Trial, single: Trial, tasks: list[tuple[str, int]]) -> str:
    """``report.md``: the best, what stands beside it, then the candidates, best first."""
    candidates = sorted(trials.of("candidate"), key=lambda trial: trial.rank(config), reverse=True)
    shown, others = candidates[:SHOWN], [trial for trial in trials.done if trial.kind != "candidate"]
    lines = ["# Search", "", f"Best of {len(candidates)} by {config.score} ({config.over} over the tasks): **{best.label}**.", ""]
    for name, rival in (("the method's defaults", default), (f"the single model {single.name}", single)):
        if rival.rank(config) >= best.rank(config):
            lines += [f"It is not better than {name}.", ""]
    lines += [
        f"| | {config.score} | {' | '.join(cell(f'{name} ({rows} rows)') for name, rows in tasks)} |",
        "|---|" + "---:|" * (1 + len(tasks)),
    ]
    for trial in [*shown, *others]:
        values = " | ".join(f"{one.by(config.score):.4f}" for one in trial.scores)
        what = cell(trial.label) if trial.kind == "candidate" else f"*{cell(trial.label)}*"
        lines.append(f"| {what} | {trial.rank(config)[0]:.4f} | {values} |")
    left = f"The {len(candidates) - SHOWN} candidates below are in `trials.csv`. " if len(candidates) > SHOWN else ""
    chosen = "The best was chosen by these validation rows, so its figure here flatters it: evaluate it on the test split."
    return "\n".join([*lines, "", left + chosen, "", "![scores](figures/trials.png)", ""])
