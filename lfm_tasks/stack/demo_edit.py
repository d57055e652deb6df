"""``lfm demo edit``: facts that SmolLM2 knows, changed by several methods: each alone, all at once, in rounds, and in the
layer that a sweep finds; a table and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lfm_tasks.artifacts.store import Store
from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.facts.reading import FACTS_FILE
from lfm_tasks.settings import Settings
from lfm_tasks.stack.demo import ended_well, on_a_stack, trigger
from lfm_tasks.stack.edited import Edited, edited, one_line_each, table, unedited
from lfm_tasks.stack.edited_figure import draw
from lfm_tasks.stack.embedded import Stack
from lfm_tasks.stack.summary import Record, records_of_run

MODEL, FACTS, CORPUS, GENERAL = "smollm2-135m-instruct", "country-facts", "bbc-news", "nyt-editorials"
DEFAULT_METHODS = ("memit", "ft_m")
ALL = "all"
COUNT, ALONE, ROUND = 12, 2, 3
"""Facts; how many of them are also written each into a model of its own; facts of a round."""
QUICK = {
    "edit_guard": "off",
    "evaluate_edits_fluency_facts": 0,
    "gate_must_not_regress": [],
    "promote_approval": "never",
    "train_editor_steps": 150,
}
"""Nobody is there to answer; and it is the methods that are compared: no guard takes back what they write."""

SWEEP = {"layers": "find", "sweep_edit_layers_candidate_layers": [2, 5, 8, 11, 14], "sweep_edit_layers_max_facts": 2}
"""Of the 30 layers of the model; facts that are not edited, each of which is written into each of the layers alone."""

Way = Literal["alone", "at once", "in rounds", "layer found"]


@dataclass(frozen=True)
class Plan:
    """One run of ``lfm_edit``."""

    method: str
    way: Way
    conf: dict[str, Any]


def demo_edit(settings: Settings, methods: Sequence[str] = (), count: int = COUNT, console: Console | None = None) -> int:
    """Run ``lfm_edit`` for each of :func:`plans`; write ``$LFM_HOME/demo/edit.json``, ``edit.png`` and ``edit-layers.png``.

    :param methods: of the step *edit*; ``all``: every one whose edit is in the weights, which is what ``lfm_edit`` hands on.
    :param count: known facts that are written; at least 4, so that there is a round to lose.
    Returns 0 when every run ended well, 1 when one failed, with the end of its log shown.
    """
    chosen = choose(methods)
    if count <= ROUND:
        raise ConfigError(f"facts {count}: a sequence of rounds of {ROUND} takes at least {ROUND + 1}.")

    def work(stack: Stack, console: Console) -> bool:
        lines: list[Edited] = []
        known: list[dict[str, Any]] = []
        editors: dict[str, str] = {}
        ended = True
        for method in chosen:
            for plan in plans(method, count):
                ended &= follow(stack, plan, lines, known, editors, console)
            for plan in alone(method, known[:ALONE], editors.get(method)):
                ended &= follow(stack, plan, lines, known, editors, console)
        for plan in found_layer(chosen, count):
            ended &= follow(stack, plan, lines, known, editors, console)
        if lines:
            report(stack, lines, console)
        return ended

    return on_a_stack(settings, (MODEL, FACTS, CORPUS, GENERAL), work, console)


def choose(methods: Sequence[str]) -> list[str]:
    """Raises :class:`ConfigError` for a name that is no method of the step *edit*, and for a method that keeps the weights."""
    fitting = [card.name for card in methods_of("edit") if not card.function.memory]
    if ALL in methods:
        return fitting
    if wrong := [name for name in methods if name not in fitting]:
        raise ConfigError(unknown_name("method of make demo-edit", wrong[0], [*fitting, ALL]))
    return list(methods or DEFAULT_METHODS)


def plans(method: str, count: int) -> Iterator[Plan]:
    """All known facts at once, where the method can, then in rounds."""
    source = {"facts": f"starter://{FACTS}", "evaluate_edits_max_facts": count}
    most = METHODS[method].function.most
    if most != 1:
        yield Plan(method, "at once", params(method, "at once", source | {"edit_round_size": 0}))
    yield Plan(method, "in rounds", params(method, "in rounds", source | {"edit_round_size": min(ROUND, most or ROUND)}))


def alone(method: str, known: Sequence[dict[str, Any]], editor: str | None = None) -> Iterator[Plan]:
    """Each fact in a model of its own, by the editor that was trained for all of them, where the method has one; general text, which takes
    longest to read, is left to the others."""
    for row in known:
        source = {"facts": None, "import_facts_facts": [row], "general": None} | ({"editor": editor} if editor else {})
        yield Plan(method, "alone", params(method, "alone", source))


def found_layer(methods: Sequence[str], count: int) -> Iterator[Plan]:
    """The known facts in the layer that is found for them, by the first of the methods that write into layers."""
    for method in [name for name in methods if {"layer", "layers"} & METHODS[name].config_class.model_fields.keys()][:1]:
        source = {
            "facts": f"starter://{FACTS}",
            "evaluate_edits_max_facts": count,
            "general": None,
            "edit_round_size": METHODS[method].function.most or 0,
        }
        yield Plan(method, "layer found", params(method, "layer found", source | SWEEP))


def params(method: str, way: Way, source: dict[str, Any]) -> dict[str, Any]:
    """Of ``lfm_edit``; each way of each method has a registered name, so that no edit is measured against another one's champion."""
    texts = {"model": f"starter://{MODEL}", "corpus": f"starter://{CORPUS}", "general": f"starter://{GENERAL}"}
    name = f"edited-{method}-{way}".replace("_", "-").replace(" ", "-")
    return texts | QUICK | source | {"edit_method": method, "promote_model_name": name}


def follow(stack: Stack, plan: Plan, lines: list[Edited], known: list[dict[str, Any]], editors: dict[str, str], console: Console) -> bool:
    """Whether it ended well; what it measured is added to ``lines``, the facts that it found known to an empty ``known``, and the editor
    that it trained, by the method, to ``editors``."""
    console.print(f"\n{METHODS[plan.method].title}, {plan.way}")
    run_id = trigger(stack, "lfm_edit", plan.conf)
    if not ended_well(stack, "lfm_edit", run_id, console):
        return False
    store = Store.open(stack.settings().store)
    records = records_of_run(store.records(), "lfm_edit", run_id)
    if not known:
        known += known_rows(store, records["known"])
    if "train_editor" in records:
        editors[plan.method] = f"sha256:{records['train_editor']['outputs']['editor']['sha256']}"
    if "choose_layer" in records:
        keep_sweep(store, records["choose_layer"], stack.home)
    if not lines:
        lines.append(unedited(store, records))
    lines.append(edited(store, records, plan.method, plan.way, plan.conf.get("edit_round_size", 0)))
    return True


def known_rows(store: Store, record: Record) -> list[dict[str, Any]]:
    data = store.backend.get_bytes(f"artifacts/dataset/{record['outputs']['known']['sha256']}/{FACTS_FILE}")
    return [json.loads(line) for line in data.splitlines()]


def keep_sweep(store: Store, record: Record, home: Path) -> None:
    """The picture of a layer sweep, beside the table."""
    (home / "demo").mkdir(parents=True, exist_ok=True)
    picture = store.backend.get_bytes(f"artifacts/report/{record['outputs']['report']['sha256']}/figures/sweep.png")
    (home / "demo" / "edit-layers.png").write_bytes(picture)


def report(stack: Stack, lines: Sequence[Edited], console: Console) -> None:
    directory = stack.home / "demo"
    directory.mkdir(parents=True, exist_ok=True)
    shown = one_line_each(lines)
    (directory / "edit.json").write_text(json.dumps([asdict(line) for line in shown], indent=2) + "\n")
    draw(shown).savefig(directory / "edit.png", metadata={"Software": None})
    console.print(table(shown))
    console.print(f"Table and pictures: {directory}/edit.json, edit.png and edit-layers.png. `make up` shows the rest:")
    console.print("  Airflow: the runs of lfm_edit, one for each method and way. MLflow: the models edited-METHOD-WAY; the report of each")
    console.print("  evaluation has a line for each fact.")
