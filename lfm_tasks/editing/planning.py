"""The step *plan_edits*: what an edit would write, keep and cost, and what is wrong with its facts, before any weight is touched.

Time is measured on one fact with the fewest steps, and stretched; it is that of the machine that plans.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import Config, canonical_json
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.editing.edit import base_of, open_editing
from lfm_tasks.editing.method import Editing
from lfm_tasks.editing.methods.config import LocatedOptions
from lfm_tasks.editing.pipeline import contexts_of, edited_sites
from lfm_tasks.editing.rounds import plan_rounds
from lfm_tasks.errors import DataError
from lfm_tasks.facts.locate import encode
from lfm_tasks.facts.reading import FACTS_FILE, read_objects, sort_out
from lfm_tasks.facts.record import Fact
from lfm_tasks.step import Input, Outcome, Output, StepContext

FLOAT = 4
"""Bytes of a number that is kept."""


@dataclass(frozen=True)
class Plan:
    rounds: tuple[int, ...]
    """Facts of each."""
    layers: tuple[int, ...]
    """None for methods that do not say before they run which they edit."""
    ranks: tuple[int, int]
    """Of all changes of a weight together: with one key for each fact, and with two."""
    bytes: tuple[int, int]
    """Of all changes, for these."""
    cpu_seconds: float
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def run(config: EditConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Raises as the step *edit* does for a model, statistics and options that do not fit; facts that do not are listed."""
    source = inputs["model"]
    editing = open_editing({**inputs, "model": base_of(source)}, context, config.seed)
    facts, problems = sort_out(read_objects(inputs["facts"].path / FACTS_FILE))
    plan = make_plan(editing, config, facts, problems)
    return write_report(plan, config.method, context.workdir / "report")


def make_plan(editing: Editing, config: EditConfig, facts: Sequence[Fact], problems: Sequence[str]) -> Plan:
    options, method = config.method_config(), METHODS[config.method].function
    fit, bad = located(editing, facts, options)
    rounds = plan_rounds(fit, config.round_size, method.most) if fit else []
    sites = edited_sites(editing.decoder, options) if isinstance(options, LocatedOptions) else []
    most = 1 + (options.two_keys and options.prefixes > 0) + options.openings if isinstance(options, LocatedOptions) else 1
    ranks = (len(fit), most * len(fit)) if sites else (0, 0)
    numbers = [sum(rank * sum(site.matrix.shape) for site in sites) for rank in ranks]
    return Plan(
        rounds=tuple(len(one) for one in rounds),
        layers=tuple(site.layer for site in sites),
        ranks=ranks,
        bytes=(FLOAT * numbers[0], FLOAT * numbers[1]),
        cpu_seconds=seconds_of(editing, config, fit, len(rounds)) if fit else 0.0,
        problems=(*problems, *bad),
    )


def located(editing: Editing, facts: Sequence[Fact], options: Config) -> tuple[list[Fact], list[str]]:
    """The facts that the tokenizer can place in every context, and what is wrong with the others."""
    contexts = contexts_of(editing, options) if isinstance(options, LocatedOptions) else ("",)
    fit, bad = [], []
    for fact in facts:
        try:
            for context in contexts:
                encode(editing.tokenizer, fact, fact.target_new, context)
            fit.append(fact)
        except DataError as error:
            bad.append(str(error))
    return fit, bad


def seconds_of(editing: Editing, config: EditConfig, facts: Sequence[Fact], rounds: int) -> float:
    """Of the processor: a + b steps of one fact are measured; a comes once for each round, b for each fact. Nothing stays in the model."""
    options, method = config.method_config(), METHODS[config.method].function
    if "steps" not in type(options).model_fields:
        return len(facts) * _timed(editing, method.edit, facts[:1], options)
    fewest = {"steps": 1} | ({"enough": 0.0} if "enough" in type(options).model_fields else {})
    method.edit(editing, facts[:1], options.model_copy(update=fewest))
    once, twice = (_timed(editing, method.edit, facts[:1], options.model_copy(update=fewest | {"steps": steps})) for steps in (1, 4))
    step = max(0.0, (twice - once) / 3)
    return rounds * max(0.0, once - step) + len(facts) * options.steps * step


def write_report(plan: Plan, method: str, directory: Path) -> Outcome:
    directory.mkdir(parents=True)
    (directory / "plan.json").write_bytes(canonical_json({"method": method, **plan.to_json()}) + b"\n")
    page = directory / "report.md"
    page.write_text(render(plan, method))
    facts = sum(plan.rounds)
    metrics = {
        "facts": facts,
        "rounds": len(plan.rounds),
        "problems": len(plan.problems),
        "bytes": plan.bytes[1],
        "cpu_seconds": plan.cpu_seconds,
    }
    summary = {"method": method, "facts": facts, **plan.to_json()}
    return Outcome({"report": Output("report", directory)}, {name: float(value) for name, value in metrics.items()}, summary, (page,))


def render(plan: Plan, method: str) -> str:
    layers = ", ".join(map(str, plan.layers)) or "chosen by the method"
    lines = [
        f"# {method}: {sum(plan.rounds)} facts in {len(plan.rounds)} rounds",
        "",
        "| | |",
        "|---|---|",
        f"| layers | {layers} |",
        f"| rank of each weight's change | {plan.ranks[0]} to {plan.ranks[1]} |",
        f"| bytes kept | {plan.bytes[0]:,} to {plan.bytes[1]:,} |",
        f"| processor seconds here | about {plan.cpu_seconds:.0f} |",
        "",
        f"## {len(plan.problems)} problems" if plan.problems else "No problem was found; nothing was written.",
        *(f"- {problem}" for problem in plan.problems),
    ]
    return "\n".join(lines) + "\n"


def _timed(editing: Editing, edit: Any, facts: Sequence[Fact], options: Any) -> float:
    began = time.process_time()
    edit(editing, facts, options)
    return time.process_time() - began
