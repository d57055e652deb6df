"""``lfm demo merge``: experts of several tasks are tuned from one base, then merged by every method that fits, in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lfm_tasks.artifacts.store import Store
from lfm_tasks.catalogue import methods_of
from lfm_tasks.settings import Settings
from lfm_tasks.stack.demo import ended_well, on_a_stack, trigger
from lfm_tasks.stack.embedded import Stack
from lfm_tasks.stack.summary import records_of_run

BASE = "minilm-l6"
EXPERTS = ("bbc-news", "movie-reviews", "sarcasm", "tweets")
PREPARE = {
    "prepare_task": "classification",
    "prepare_text_column": "text",
    "prepare_label_column": "label",
    "prepare_max_length": 64,
    "prepare_max_eval_samples": 400,
}
TUNE = {
    "tune_method": "full",
    "tune_learning_rate": 5e-5,
    "tune_epochs": 2,
    "tune_batch_size": 16,
    "tune_max_steps": 200,
    "tune_warmup_ratio": 0.1,
}
EVALUATE = {"evaluate_max_samples": 200}


def demo_merge(settings: Settings, console: Console | None = None) -> int:
    """Run ``lfm_adapt`` for each expert and ``lfm_merge`` for all; write ``$LFM_HOME/demo/merge.json`` and ``merge.png``.

    Returns 0 when every run ended well, 1 when one failed, with the end of its log shown.
    """

    def work(stack: Stack, console: Console) -> bool:
        runs = {name: trigger(stack, "lfm_adapt", expert_params(name)) for name in EXPERTS}
        ended = [ended_well(stack, "lfm_adapt", run_id, console) for run_id in runs.values()]
        if all(ended):
            models = [tuned_model(stack, run_id) for run_id in runs.values()]
            run_id = trigger(stack, "lfm_merge", merge_params(models))
            ended.append(ended_well(stack, "lfm_merge", run_id, console))
            report(stack, run_id, console)
        return all(ended)

    return on_a_stack(settings, (BASE, *EXPERTS), work, console)


def expert_params(name: str) -> dict[str, Any]:
    """Of ``lfm_adapt``: the base becomes a classifier of the data set ``name``."""
    source = {"model": f"starter://{BASE}", "data": f"starter://{name}", "general": None}
    decision = {"gate_must_not_regress": [], "promote_model_name": f"{name}-expert", "promote_approval": "never"}
    return {**source, **PREPARE, **TUNE, **EVALUATE, **decision}


def merge_params(models: list[str]) -> dict[str, Any]:
    """Of ``lfm_merge``: by task arithmetic, and by every other method that takes as many models; not by those that descend a gradient,
    whose thousand steps each a demo has no time for."""
    cards = [card for card in methods_of("merge") if card.name != "task_arithmetic" and card.needs != "dataset"]
    also = [card.name for card in cards if card.function.takes(len(models)) and "gradients" not in card.access]
    sources = {"models": models, "data": [f"starter://{name}" for name in EXPERTS], "base": f"starter://{BASE}"}
    return {**sources, **PREPARE, **EVALUATE, "merge_method": "task_arithmetic", "merge_scale": 0.3, "also": also, "mixtures": ["smile"]}


def tuned_model(stack: Stack, run_id: str) -> str:
    records = records_of_run(Store.open(stack.settings().store).records(), "lfm_adapt", run_id)
    return f"sha256:{records['tune']['outputs']['model']['sha256']}"


def report(stack: Stack, run_id: str, console: Console) -> None:
    store = Store.open(stack.settings().store)
    compared = records_of_run(store.records(), "lfm_merge", run_id).get("compare")
    if compared is None:
        return
    made = f"artifacts/report/{compared['outputs']['comparison']['sha256']}"
    directory = stack.home / "demo"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "merge.json").write_text(json.dumps(compared["summary"], indent=2) + "\n")
    (directory / "merge.png").write_bytes(store.backend.get_bytes(f"{made}/figures/comparison.png"))
    console.print(table(compared["summary"]))
    console.print(Text(f"Written to {directory}/merge.json and merge.png; the report is sha256:{made.rpartition('/')[2]}"))


def table(comparison: Mapping[str, Any]) -> Table:
    """Best first; ``comparison`` is what *compare* says of itself."""
    shown = Table(title=f"{comparison['metric']} by task", title_justify="left")
    shown.add_column("model")
    for name in [*comparison["tasks"], "mean", "normalised", "extra parameters", "CPU", "memory", "front"]:
        shown.add_column(name, justify="right")
    for one in sorted(comparison["subjects"], key=lambda one: -(one["mean"] or 0)):
        tasks = [f"{one['tasks'][task]['value']:.3f}" if task in one["tasks"] else "" for task in comparison["tasks"]]
        cpu, memory = one["cpu_seconds"], one["peak_memory_bytes"]
        cost = ["" if cpu is None else f"{cpu:.1f} s", "" if memory is None else f"{memory / 2**20:,.0f} MB"]
        means = ["" if one[name] is None else format(one[name], form) for name, form in (("mean", ".3f"), ("normalised", ".1%"))]
        shown.add_row(one["name"], *tasks, *means, f"{one['extra_parameters']:,}", *cost, "yes" if one["on_front"] else "")
    return shown
