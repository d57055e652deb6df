"""Four MiniLM experts of other tasks, made one by every method that fits, measured on all four tasks; three seeds of the experts.

Beside the merges stand the base (below each expert's head), each expert, and what an expert gives on the others' tasks.
"""

from __future__ import annotations

import statistics
from typing import Any

from steps import SEEDS, run, write

from lfm_tasks.catalogue import methods_of

BASE = "starter://minilm-l6"
TASKS = {"topics": "bbc-news", "movies": "movie-reviews", "sarcasm": "sarcasm", "tweets": "tweets"}
PREPARE = {"task": "classification", "text_column": "text", "label_column": "label", "max_length": 64, "max_eval_samples": 400}
MAX_SAMPLES = 200
TUNE = {"method": "full", "learning_rate": 5e-5, "epochs": 2, "batch_size": 16, "max_steps": 200, "warmup_ratio": 0.1}
TUNED_BY_HAND = {"task_arithmetic, scale 0.3": ("task_arithmetic", {"scale": 0.3}), "ties, scale 0.3": ("ties", {"scale": 0.3})}
"""The scale that the papers use for many tasks, beside our default of 1."""


def main() -> None:
    datasets = {
        task: run("prepare", {"data": f"starter://{name}", "model": BASE}, **PREPARE).outputs["dataset"] for task, name in TASKS.items()
    }
    found = [one_seed(datasets, seed) for seed in SEEDS]
    names = [name for name in found[0] if all(name in one for one in found)]
    write("merging", {"tasks": list(TASKS), "seeds": found}, table(names, found))


def one_seed(datasets: dict[str, str], seed: int) -> dict[str, dict[str, Any]]:
    """Accuracy by task, and cost, of each subject."""
    experts = {task: run("tune", {"model": BASE, "dataset": data}, **TUNE, seed=seed).outputs["model"] for task, data in datasets.items()}

    def measure(models: dict[str, str]) -> dict[str, float]:
        asked = {task: {"model": models[task], "dataset": datasets[task]} for task in datasets}
        heads = {task: {} if models[task] == experts[task] else {"head": experts[task]} for task in datasets}
        return {
            task: run("evaluate", asked[task] | heads[task], max_samples=MAX_SAMPLES).metrics["classification/accuracy"]
            for task in datasets
        }

    subjects = {"base": {"accuracy": measure(dict.fromkeys(datasets, BASE))}, "each task's expert": {"accuracy": measure(experts)}}
    subjects |= {f"{task} expert on all": {"accuracy": measure(dict.fromkeys(datasets, model))} for task, model in experts.items()}
    plans = {card.name: (card.name, {}) for card in methods_of("merge") if fits(card)} | TUNED_BY_HAND
    for name, (method, options) in plans.items():
        inputs: dict[str, Any] = {"models": list(experts.values()), "base": BASE}
        if set(card_of(method).access) != {"weights"}:
            inputs["datasets"] = list(datasets.values())
        made = run("merge", inputs, alone=True, method=method, seed=seed, options=options)
        cost = {one: made.metrics[one] for one in ("cpu_seconds", "peak_memory_bytes")}
        subjects[name] = {"accuracy": measure(dict.fromkeys(datasets, made.outputs["model"])), **cost}
    return subjects


def card_of(name: str) -> Any:
    return next(card for card in methods_of("merge") if card.name == name)


def fits(card: Any) -> bool:
    method = card.function
    return method.least <= len(TASKS) and (method.most is None or method.most >= len(TASKS))


def table(names: list[str], found: list[dict[str, dict[str, Any]]]) -> str:
    rows = [f"| model | {' | '.join(TASKS)} | mean | normalised | CPU s | peak MiB |", "|---|" + "---:|" * (len(TASKS) + 4)]
    for name in sorted(names, key=lambda name: -statistics.mean(mean(one[name]) for one in found)):
        by_task = [statistics.mean(one[name]["accuracy"][task] for one in found) for task in TASKS]
        means = [mean(one[name]) for one in found]
        shares = [normalised(one[name], one["each task's expert"]) for one in found]
        cost = [statistics.mean(one[name].get(key, 0) for one in found) for key in ("cpu_seconds", "peak_memory_bytes")]
        shown = [f"{value:.3f}" for value in by_task] + [f"{statistics.mean(means):.3f} ± {statistics.stdev(means):.3f}"]
        shown += [f"{statistics.mean(shares):.1%}", *([f"{cost[0]:.1f}", f"{cost[1] / 2**20:,.0f}"] if cost[0] else ["", ""])]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(rows)


def mean(subject: dict[str, Any]) -> float:
    return statistics.mean(subject["accuracy"].values())


def normalised(subject: dict[str, Any], expert: dict[str, Any]) -> float:
    return statistics.mean(value / expert["accuracy"][task] for task, value in subject["accuracy"].items())


if __name__ == "__main__":
    main()
