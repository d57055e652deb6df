"""SmolLM2 taught other capitals and languages by every method, beside the unedited model and FT-M; three seeds.

A seed says which of the known facts are edited, which false targets they get, and what the methods draw. Every edit is written in two
halves, the second one on the first: *retention* is the share of the first half's facts that the model says by itself right after they were
written and still says at the end. No guard takes anything back: it is the methods that are measured.
``python tests/effects/editing.py memit ft_m --facts 6 --seeds 0`` is a small one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from steps import FILES, SEEDS, run, spread, write

from lfm_tasks.artifacts.store import Store
from lfm_tasks.catalogue import METHODS
from lfm_tasks.facts.reading import read_facts, write_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.seeds import derive_seed
from lfm_tasks.settings import settings
from lfm_tasks.stack import demo_edit
from lfm_tasks.stack.edited import METRICS

MODEL = f"starter://{demo_edit.MODEL}"
ROWS = 96
"""Of 256 tokens at the most: more than ten keys for each of their dimensions."""
KEY_MOMENTS = "key_moments"
ROUND = 4
ALL = 0
Plan = tuple[str, int, dict[str, Any]]
"""Method, how many facts are written at once, and options."""
PLANS: dict[str, Plan] = {
    "rome, one by one": ("rome", ALL, {}),
    "memit": ("memit", ALL, {}),
    "memit, rounds of 4": ("memit", ROUND, {}),
    "memit, rounds of 4, no openings": ("memit", ROUND, {"openings": False}),
    **{name: (name, ALL, {}) for name in ("emmet", "pmet", "alphaedit", "ft_m", "ft_l", "lora_edit", "ultraedit")},
    **{name: (name, ALL, {}) for name in ("mend", "malmen", "grace", "wise", "serac_trained")},
}
UNEDITED = "unedited"
COLUMNS = (*METRICS, "retention", "cpu_seconds", "training_cpu_seconds")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=400, help="of training an editor")
    options = parser.parse_args()
    plans = {name: plan for name, plan in PLANS.items() if not options.methods or plan[0] in options.methods}
    general = prepared(demo_edit.GENERAL, 1.0)
    moments = key_moments() if any(METHODS[method].needs == KEY_MOMENTS for method, _, _ in plans.values()) else ""
    typed = run("import_facts", {"data": f"starter://{demo_edit.FACTS}"}).outputs["dataset"]
    known = run("evaluate_edits", {"model": MODEL, "facts": typed}, mode="known").outputs["known"]
    facts = read_facts(directory(known, "dataset"))
    given = Given(typed, moments, general, options.steps)
    found = [one_seed(plans, chosen(facts, options.facts, seed), given, seed) for seed in options.seeds]
    write("editing", {"facts": options.facts, "steps": options.steps, "seeds": dict(zip(options.seeds, found, strict=True))}, table(found))


def key_moments() -> str:
    corpus = prepared(demo_edit.CORPUS, 0.0)
    return run("statistics", {"model": MODEL, "dataset": corpus}, method=KEY_MOMENTS, max_rows=ROWS).outputs["statistics"]


def prepared(name: str, test_fraction: float) -> str:
    fixed = {"task": "text", "validation_fraction": 0.0, "test_fraction": test_fraction, "max_length": 256}
    return run("prepare", {"data": f"starter://{name}", "model": MODEL}, **fixed).outputs["dataset"]


def chosen(facts: Sequence[Fact], count: int, seed: int) -> list[Fact]:
    """``count`` of the facts, each with another one's answer as its target; what follows from a target is not asked."""
    if count > len(facts):
        raise SystemExit(f"--facts {count}: the model knows {len(facts)}.")
    ordered = sorted(facts, key=lambda fact: derive_seed(seed, "facts", fact.id))[:count]
    answers = {relation: sorted({one.target_true for one in facts if one.relation == relation}) for relation in ("capital", "language")}
    return [retargeted(fact, answers[fact.relation], seed) for fact in ordered]


def retargeted(fact: Fact, answers: Sequence[str], seed: int) -> Fact:
    others = [answer for answer in answers if answer != fact.target_true]
    target = random.Random(derive_seed(seed, "target", fact.id)).choice(others)
    return replace(fact, target_new=target, portability={}, generation_prompts=())


@dataclass(frozen=True)
class Given:
    """References."""

    training: str
    """All facts; an editor is trained on those of other subjects than it will edit."""
    moments: str
    general: str
    steps: int


def one_seed(plans: Mapping[str, Plan], facts: Sequence[Fact], given: Given, seed: int) -> dict[str, dict[str, float]]:
    """The figures of :data:`COLUMNS` of the unedited model and of each plan."""
    half = math.ceil(len(facts) / 2 / ROUND) * ROUND if len(facts) > ROUND else len(facts) // 2
    parts = {"first": facts[:half], "second": facts[half:], "all": facts}
    data = {name: imported(part) for name, part in parts.items()}
    general = given.general
    bases = {name: run("evaluate_edits", asked(MODEL, data[name], general)) for name in ("first", "all")}
    found = {UNEDITED: figures(bases["all"].metrics)}
    for name, (method, size, more) in plans.items():
        needed, training = needs(method, data["all"], given, seed)
        values = {"method": method, "round_size": size, "seed": seed, "guard": "off", "options": more}
        first = run("edit", {"model": MODEL, "facts": data["first"]} | needed, **values)
        second = run("edit", {"model": first.outputs["adapter"], "facts": data["second"]} | needed, **values)
        early, late = (
            run("evaluate_edits", asked(one.outputs["adapter"], data[part], general) | {"base": bases[part].outputs["report"]})
            for one, part in ((first, "first"), (second, "all"))
        )
        cost = first.metrics["cpu_seconds"] + second.metrics["cpu_seconds"]
        found[name] = figures(late.metrics) | {"retention": retention(said(early), said(late)), "cpu_seconds": cost} | training
        print(f"seed {seed}, {name}: {json.dumps(found[name])}", flush=True)
    return found


def needs(method: str, edited: str, given: Given, seed: int) -> tuple[dict[str, str], dict[str, float]]:
    """Inputs beside model and facts, and what they cost."""
    way = METHODS[method].needs
    if not way:
        return {}, {}
    if way == KEY_MOMENTS:
        return {"statistics": given.moments}, {}
    facts = {"model": MODEL, "facts": given.training, "edited": edited}
    made = run("train_editor", facts, method=way, steps=given.steps, seed=seed)
    return {"editor": made.outputs["editor"]}, {"training_cpu_seconds": made.metrics["cpu_seconds"]}


def imported(facts: Sequence[Fact]) -> str:
    write_facts(facts, FILES / "facts")
    return run("import_facts", {"data": f"file://{FILES}/facts"}).outputs["dataset"]


def asked(model: str, facts: str, general: str) -> dict[str, str]:
    return {"model": model, "facts": facts, "general": general}


def figures(metrics: Mapping[str, float]) -> dict[str, float]:
    return {short: metrics[full] for short, full in METRICS.items()}


def said(evaluated: Any) -> dict[str, bool]:
    """Whether the model says a fact's new answer by itself, by the fact's id."""
    rows = pq.read_table(directory(evaluated.outputs["report"], "report") / "facts.parquet").to_pylist()
    return {row["id"]: row["prefix_match"] for row in rows}


def retention(before: Mapping[str, bool], after: Mapping[str, bool]) -> float:
    """Of the facts that were said before; not a number where none was."""
    written = [name for name, there in before.items() if there]
    return statistics.mean(float(after[name]) for name in written) if written else math.nan


def directory(reference: str, kind: str) -> Path:
    path = Store.open(settings().store).backend.local_path(f"artifacts/{kind}/{reference.removeprefix('sha256:')}")
    assert path is not None, "the effects need a store of files"
    return path


def table(found: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    rows = [f"| model | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    for name in found[0]:
        shown = [spread([one[name][column] for one in found]) if column in found[0][name] else "" for column in COLUMNS]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
