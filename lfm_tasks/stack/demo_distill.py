"""``lfm demo distill``: a tuned classifier teaches half of its own layers, by several methods, beside labels alone; one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lfm_tasks.artifacts.store import Store
from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.settings import Settings
from lfm_tasks.stack.demo import ended_well, on_a_stack, trigger
from lfm_tasks.stack.demo_merge import BASE, EVALUATE, PREPARE, expert_params, tuned_model
from lfm_tasks.stack.embedded import Stack
from lfm_tasks.stack.summary import Record, records_of_run

DATA = "bbc-news"
DEPTH = 3
DEFAULT_METHODS = ("forward_kl", "minilm_v2")
DISTILL = {
    "distill_alpha": 0.9,
    "distill_learning_rate": 5e-5,
    "distill_epochs": 2,
    "distill_batch_size": 16,
    "distill_max_steps": 200,
    "distill_warmup_ratio": 0.1,
}
Line = dict[str, Any]
"""``name``, ``value``, ``share``, ``low``, ``high`` of the teacher's metric; of a student ``speedup``, ``cpu_seconds``, ``gate`` too."""


def demo_distill(settings: Settings, methods: Sequence[str] = (), console: Console | None = None) -> int:
    """Tune a teacher by ``lfm_adapt``, run ``lfm_distill`` for each method; write ``$LFM_HOME/demo/distill.json``.

    :param methods: of the step *distill*, for classifiers.
    Returns 0 when every run ended well, 1 when one failed, with the end of its log shown.
    """
    chosen = choose(methods)

    def work(stack: Stack, console: Console) -> bool:
        adapted = trigger(stack, "lfm_adapt", expert_params(DATA))
        if not ended_well(stack, "lfm_adapt", adapted, console):
            return False
        teacher, lines, ended = tuned_model(stack, adapted), [], True
        for method in chosen:
            console.print(f"\n{METHODS[method].title}")
            run_id = trigger(stack, "lfm_distill", params(method, teacher))
            if ended_well(stack, "lfm_distill", run_id, console):
                store = Store.open(stack.settings().store)
                records = records_of_run(store.records(), "lfm_distill", run_id)
                lines += lines_of(method, records, retention(store, records["judge"]), others=not lines)
            else:
                ended = False
        if lines:
            report(stack, lines, console)
        return ended

    return on_a_stack(settings, (BASE, DATA), work, console)


def choose(methods: Sequence[str]) -> list[str]:
    """Raises :class:`ConfigError` for a name that is no method for classifiers."""
    fitting = [card.name for card in methods_of("distill") if "classification" in card.tasks]
    if wrong := [name for name in methods if name not in fitting]:
        raise ConfigError(unknown_name("method of make demo-distill", wrong[0], fitting))
    return list(methods or DEFAULT_METHODS)


def params(method: str, teacher: str) -> dict[str, Any]:
    """Of ``lfm_distill``; each method has a registered name, so that no student is measured against another one's champion."""
    source = {"teacher": teacher, "student": None, "data": f"starter://{DATA}", "general": None, "cut_student_depth": DEPTH}
    name = f"distilled-{method}".replace("_", "-")
    decision = {"gate_must_not_regress": [], "promote_model_name": name, "promote_approval": "never"}
    return {**source, **PREPARE, **DISTILL, **EVALUATE, **decision, "distill_method": method}


def retention(store: Store, record: Record) -> dict[str, Any]:
    """What the step *judge_student* wrote."""
    return json.loads(store.backend.get_bytes(f"artifacts/report/{record['outputs']['retention']['sha256']}/retention.json"))


def lines_of(method: str, records: Mapping[str, Record], found: Mapping[str, Any], *, others: bool) -> list[Line]:
    """The method's student; with ``others`` before it the teacher, the student as it was cut, and what labels alone made of it."""
    names = {"teacher": "teacher", "before": f"{DEPTH} of its layers", "baseline": "labels alone"}
    lines = [{"name": title, **found["kept"][name]} for name, title in names.items() if others]
    for line in lines:
        if line["name"] == names["baseline"]:
            line["cpu_seconds"] = records["baseline"]["metrics"]["cpu_seconds"]
    made = {"speedup": found["speedup"], "cpu_seconds": records["distill"]["metrics"]["cpu_seconds"]}
    gate = records["gate"]["summary"]["outcome"] if "gate" in records else "not asked"
    return [*lines, {"name": METHODS[method].title, **found["kept"]["student"], **made, "gate": gate}]


def report(stack: Stack, lines: Sequence[Line], console: Console) -> None:
    directory = stack.home / "demo"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "distill.json").write_text(json.dumps(list(lines), indent=2) + "\n")
    console.print(table(lines))
    console.print(f"Written to {directory}/distill.json. `make up` shows the rest: in Airflow the runs of lfm_distill, in MLflow the")
    console.print("models distilled-METHOD; the report of each task *judge* has the timings.")


def table(lines: Sequence[Line]) -> Table:
    shown = Table(title="What was kept of the teacher's accuracy", title_justify="left")
    shown.add_column("model")
    for name in ("accuracy", "kept", "95% interval", "times as fast", "CPU", "gate"):
        shown.add_column(name, justify="right")
    for line in lines:
        speed, cpu = (line.get(name) for name in ("speedup", "cpu_seconds"))
        costs = ["" if speed is None else f"{speed:.2f}", "" if cpu is None else f"{cpu:.1f} s", line.get("gate", "")]
        interval = f"{line['low']:.1%} – {line['high']:.1%}"
        shown.add_row(line["name"], f"{line['value']:.3f}", f"{line['share']:.1%}", interval, *costs)
    return shown
