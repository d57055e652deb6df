"""Four MiniLM experts of other tasks, made one by every method that fits, measured on all four tasks; three seeds of the experts.

Beside the merges stand the base (below each expert's head), each expert, and what an expert gives on the others' tasks.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from steps import SEEDS, run, write

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.stack import demo_merge

BASE = f"starter://{demo_merge.BASE}"
TASKS = dict(zip(("topics", "movies", "sarcasm", "tweets"), demo_merge.EXPERTS, strict=True))
PREPARE = {name.removeprefix("prepare_"): value for name, value in demo_merge.PREPARE.items()}
TUNE = {name.removeprefix("tune_"): value for name, value in demo_merge.TUNE.items()}
EVALUATE = {name.removeprefix("evaluate_"): value for name, value in demo_merge.EVALUATE.items()}
EXPERT = "each task's expert"
COSTS = ("cpu_seconds", "peak_memory_bytes", "extra_parameters")
BY_HAND = {
    "task_arithmetic, scale 0.3": ("task_arithmetic", {"scale": 0.3}),
    "ties, scale 0.3": ("ties", {"scale": 0.3}),
    "adamerging": ("adamerging", {"steps": 200}),
    "adamerging_pp": ("adamerging_pp", {"steps": 200}),
    "concrete_task_arithmetic": ("concrete_task_arithmetic", {"mask_steps": 200}),
    "concrete_adamerging": ("concrete_adamerging", {"mask_steps": 100, "steps": 100}),
}
"""The scale that the papers use for many tasks, beside our default of 1; a fifth of the default's steps."""
MIXTURES = {"smile": {}, "wemoe": {"steps": 100}}
ENSEMBLE = "ensemble (probability_mean)"


def main() -> None:
    only = sys.argv[1:]
    datasets = {}
    for task, name in TASKS.items():
        datasets[task] = run("prepare", {"data": f"starter://{name}", "model": BASE}, **PREPARE).outputs["dataset"]
    found = [one_seed(datasets, seed, only) for seed in SEEDS]
    names = [name for name in found[0] if all(name in one for one in found)]
    write("merging", {"tasks": list(TASKS), "seeds": found}, table(names, found))


def one_seed(datasets: dict[str, str], seed: int, only: list[str]) -> dict[str, dict[str, Any]]:
    """Accuracy by task, and cost, of each subject; of the methods ``only`` those named, where some are."""
    experts = {task: run("tune", {"model": BASE, "dataset": data}, **TUNE, seed=seed).outputs["model"] for task, data in datasets.items()}
    sources = {"models": list(experts.values()), "base": BASE}

    def measure(models: dict[str, str]) -> dict[str, float]:
        asked = {task: {"model": models[task], "dataset": datasets[task]} for task in datasets}
        heads = {task: {} if models[task] == experts[task] else {"head": experts[task]} for task in datasets}
        found = {}
        for task in datasets:
            report = run("evaluate", asked[task] | heads[task], **EVALUATE)
            found[task] = report.metrics["classification/accuracy"]
        return found

    def result(step: str, method: str, options: dict[str, Any]) -> dict[str, Any]:
        made = run(step, sources | needed(METHODS[method].needs), alone=True, method=method, seed=seed, options=options)
        return {"accuracy": measure(dict.fromkeys(datasets, made.outputs["model"])), **{name: made.metrics.get(name, 0) for name in COSTS}}

    def needed(what: str) -> dict[str, list[str]]:
        """By the input that the method needs beside the models."""
        if what in ("", "datasets"):
            return {what: list(datasets.values())} if what else {}
        pairs = [{"model": experts[task], "dataset": datasets[task]} for task in datasets]
        return {"statistics": [run("statistics", pair, method=what).outputs["statistics"] for pair in pairs]}

    subjects = {"base": {"accuracy": measure(dict.fromkeys(datasets, BASE))}, EXPERT: {"accuracy": measure(experts)}}
    subjects |= {f"{task} expert on all": {"accuracy": measure(dict.fromkeys(datasets, model))} for task, model in experts.items()}
    plans = {card.name: ("merge", card.name, {}) for card in methods_of("merge") if fits(card)}
    plans |= {name: ("merge", *plan) for name, plan in BY_HAND.items()}
    plans |= {name: ("mix", name, options) for name, options in MIXTURES.items()}
    for name, plan in plans.items():
        if not only or name in only:
            subjects[name] = result(*plan)
    if not only or ENSEMBLE in only:
        subjects[ENSEMBLE] = {"accuracy": ensemble(experts, datasets)}
    return subjects


def ensemble(experts: dict[str, str], datasets: dict[str, str]) -> dict[str, float]:
    """Every expert answers, below the head of the task's own expert."""
    found = {}
    for task, data in datasets.items():
        inputs = {"models": list(experts.values()), "dataset": data, "head": experts[task]}
        found[task] = run("ensemble", inputs, **EVALUATE).metrics["classification/accuracy"]
    return found


def fits(card: Any) -> bool:
    return card.needs != "dataset" and card.function.takes(len(TASKS))


def table(names: list[str], found: list[dict[str, dict[str, Any]]]) -> str:
    rows = [
        f"| model | {' | '.join(TASKS)} | mean | normalised | extra parameters | CPU s | peak MiB |",
        "|---|" + "---:|" * (len(TASKS) + 5),
    ]
    for name in sorted(names, key=lambda name: -statistics.mean(mean(one[name]) for one in found)):
        by_task = [statistics.mean(one[name]["accuracy"][task] for one in found) for task in TASKS]
        means = [mean(one[name]) for one in found]
        shares = [normalised(one[name], one[EXPERT]) for one in found]
        cpu, memory, extra = (statistics.mean(one[name].get(key, 0) for one in found) for key in COSTS)
        shown = [f"{value:.3f}" for value in by_task] + [f"{statistics.mean(means):.3f} ± {statistics.stdev(means):.3f}"]
        shown += [f"{statistics.mean(shares):.1%}", *([f"{extra:,.0f}", f"{cpu:.1f}", f"{memory / 2**20:,.0f}"] if cpu else [""] * 3)]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(rows)


def mean(subject: dict[str, Any]) -> float:
    return statistics.mean(subject["accuracy"].values())


def normalised(subject: dict[str, Any], expert: dict[str, Any]) -> float:
    return statistics.mean(value / expert["accuracy"][task] for task, value in subject["accuracy"].items())


if __name__ == "__main__":
    main()
