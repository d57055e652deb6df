"""``lfm demo distill``: a classifier is tuned, then half of its layers learn from it by several methods, in one table and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lfm_tasks.artifacts.store import Store
from lfm_tasks.catalogue import methods_of
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.settings import Settings
from lfm_tasks.stack.demo import ended_well, on_a_stack, trigger
from lfm_tasks.stack.demo_merge import BASE, EVALUATE, PREPARE, TUNE, expert_params, tuned_model
from lfm_tasks.stack.embedded import Stack
from lfm_tasks.stack.summary import records_of_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATA, DEPTH = "bbc-news", 3
METHODS: dict[str, dict[str, Any]] = {
    "forward_kl": {"distill_temperature": 2.0, "record": True},
    "minilm_v2": {},
}
"""Methods of the default, and what they are told."""
LEARN = {f"distill_{name.removeprefix('tune_')}": value for name, value in TUNE.items() if name != "tune_method"} | {"distill_alpha": 0.9}
TEACHER, BEFORE, BASELINE, STUDENT = "teacher", "before", "baseline", "student"
TITLES = {TEACHER: "teacher, 6 layers", BEFORE: "student, as cut", BASELINE: "student, labels alone"}

Kept = Mapping[str, float]
"""``value`` of the metric, ``share`` of the teacher's with ``low`` and ``high``."""


def demo_distill(settings: Settings, methods: Sequence[str] = (), console: Console | None = None) -> int:
    """Run ``lfm_adapt`` for the teacher and ``lfm_distill`` for each method; write ``$LFM_HOME/demo/distill.json`` and ``distill.png``.

    Returns 0 when every run ended well, 1 when one failed, with the end of its log shown.
    """
    chosen = choose(methods)

    def work(stack: Stack, console: Console) -> bool:
        run_id = trigger(stack, "lfm_adapt", expert_params(DATA))
        if not ended_well(stack, "lfm_adapt", run_id, console):
            return False
        teacher, found, ended = tuned_model(stack, run_id), {}, True
        for method in chosen:
            console.print(f"\n{method}")
            run_id = trigger(stack, "lfm_distill", params(teacher, method))
            ended &= ended_well(stack, "lfm_distill", run_id, console)
            if (judged := retention(stack, run_id)) is not None:
                found[method] = judged
        if found:
            report(stack, found, console)
        return ended

    return on_a_stack(settings, (BASE, DATA), work, console)


def choose(methods: Sequence[str]) -> list[str]:
    """Raises :class:`ConfigError` for a name that is no method for classifiers."""
    fitting = [card.name for card in methods_of("distill") if "classification" in card.tasks]
    if wrong := [name for name in methods if name not in fitting]:
        raise ConfigError(unknown_name("method of make demo-distill", wrong[0], fitting))
    return list(methods or METHODS)


def params(teacher: str, method: str) -> dict[str, Any]:
    """Of ``lfm_distill``; each method has a registered name, so that no student is measured against another one's champion."""
    source = {"teacher": teacher, "data": f"starter://{DATA}", "general": None, "cut_student_depth": DEPTH}
    name = f"distilled-{method}".replace("_", "-")
    decision = {"gate_must_not_regress": [], "promote_model_name": name, "promote_approval": "never", "judge_student_min_retained": 0.0}
    return source | PREPARE | LEARN | EVALUATE | decision | METHODS.get(method, {}) | {"distill_method": method}


def retention(stack: Stack, run_id: str) -> dict[str, Any] | None:
    """What *judge* found; None where the run did not come so far."""
    store = Store.open(stack.settings().store)
    judged = records_of_run(store.records(), "lfm_distill", run_id).get("judge")
    if judged is None:
        return None
    return json.loads(store.backend.get_bytes(f"artifacts/report/{judged['outputs']['retention']['sha256']}/retention.json"))


def rows(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Kept]:
    """A line for the teacher, for the student before and by labels alone, and for each method."""
    first = next(iter(found.values()))["kept"]
    shared = {TITLES[name]: first[name] for name in TITLES if name in first}
    return shared | {f"student, {method}": judged["kept"][STUDENT] for method, judged in found.items()}


def report(stack: Stack, found: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    directory = stack.home / "demo"
    directory.mkdir(parents=True, exist_ok=True)
    first = next(iter(found.values()))
    shown = rows(found)
    (directory / "distill.json").write_text(json.dumps(dict(found), indent=2) + "\n")
    draw(shown, first["metric"]).savefig(directory / "distill.png", metadata={"Software": None})
    console.print(table(shown, first["metric"]))
    sizes = first["parameters"]
    speed = ", ".join(f"{judged['speedup']:.2f}" for judged in found.values())
    console.print(f"The student has {sizes['student']:,} of {sizes['teacher']:,} parameters and was {speed} times as fast.")
    console.print(f"Table and picture: {directory}/distill.json and distill.png. `make up` shows the rest:")
    console.print("  Airflow: the runs of lfm_distill, one for each method. MLflow: the models distilled-METHOD.")


def table(shown: Mapping[str, Kept], metric: str) -> Table:
    made = Table(title=f"{metric} on held-out rows", title_justify="left")
    made.add_column("model")
    for name in ("value", "share of the teacher's", "interval"):
        made.add_column(name, justify="right")
    for name, one in shown.items():
        made.add_row(name, f"{one['value']:.3f}", f"{one['share']:.1%}", f"{one['low']:.1%} to {one['high']:.1%}")
    return made


def draw(shown: Mapping[str, Kept], metric: str) -> Figure:
    """Shares of the teacher's metric, with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 * len(shown) + 1.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(shown.values()):
        colour = "#8a8a8a" if place < len(TITLES) else "#0072B2"
        spread = [[one["share"] - one["low"]], [one["high"] - one["share"]]]
        axes.errorbar(one["share"], place, xerr=spread, fmt="o", color=colour, capsize=3)
        axes.annotate(f"{one['value']:.3f}", (one["share"], place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}, as a share of the teacher's, with its interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#8a8a8a", alpha=0.25)
    return figure
