"""The step *sweep_edit_layers*: which layer takes edits best, by trying. Each fact is edited alone, in the unedited model.

Score = harmonic mean of success, paraphrase and neighbourhood (Meng et al. 2022, section 3.3) - penalty x nats that general text lost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import canonical_json, parse_config
from lfm_tasks.editing.asking import Pair, answers, mean_nll
from lfm_tasks.editing.edit import base_of, open_editing, text_of
from lfm_tasks.editing.method import Editing, EditMethod
from lfm_tasks.editing.sweep_config import SweepEditLayersConfig
from lfm_tasks.editing.sweep_report import Row, write_report
from lfm_tasks.editing.writing import written
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.facts.edited import was_edited
from lfm_tasks.facts.reading import read_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.step import Input, Outcome, StepContext

TRIED = "tried.json"
SEARCHED = ("layer", "layers")
LEAST = 4
"""Facts that a layer is chosen on, where there are so many."""


def run(config: SweepEditLayersConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    edited = read_facts(inputs["edited"].path) if "edited" in inputs else []
    facts, seen = held_out(usable(read_facts(inputs["facts"].path)), edited, config.max_facts)
    if seen:
        context.log(f"{seen} of the {len(facts)} facts that the layer is chosen on are to be edited: there were too few others.")
    source = base_of(inputs["model"])
    editing = open_editing({**inputs, "model": source}, context, config.seed)
    identity = {"config": config.cache_fields(), "inputs": {name: one.sha256 for name, one in sorted(inputs.items())}}
    rows = try_all(editing, facts, config, text_of(inputs, editing, 32), identity)
    return write_report(rows, config.method, config.tolerance, context.workdir / "report", {"tried": len(facts), "edited": seen})


def usable(facts: Sequence[Fact]) -> list[Fact]:
    """Those that success can be told of. Raises :class:`DataError` where there are none."""
    kept = [fact for fact in facts if fact.target_true is not None]
    if not kept:
        raise DataError(f"None of the {len(facts):,} facts has a target_true to compare the new target with. Add the present answers.")
    return kept


def held_out(facts: Sequence[Fact], edited: Sequence[Fact], most: int) -> tuple[list[Fact], int]:
    """At most ``most`` facts about other subjects than those that are ``edited``; where there are fewer than ``LEAST`` of them, edited ones
    beside them up to that number; and how many these are."""
    subjects = {fact.subject.casefold() for fact in edited}
    others = [fact for fact in facts if fact.subject.casefold() not in subjects][:most]
    theirs = [fact for fact in facts if fact.subject.casefold() in subjects]
    added = theirs[: max(0, min(LEAST, most) - len(others))]
    return [*others, *added], len(added)


def try_all(editing: Editing, facts: Sequence[Fact], config: SweepEditLayersConfig, text: Sequence[Tensor], identity: Any) -> list[Row]:
    """Raises :class:`~lfm_tasks.errors.AttemptKilled` between candidates, of which those that were tried are kept; and
    :class:`ConfigError` for more shards than layers."""
    layers = config.candidate_layers or list(range((len(editing.decoder.layers) + 1) // 2))
    for layer in layers:
        editing.decoder.site(layer)
    if config.shard >= len(layers):
        raise ConfigError(f"shard {config.shard} of {config.shards}: there are {len(layers)} candidate layers. Take fewer shards.")
    layers = layers[config.shard :: config.shards]
    candidates = [(layer, values) for layer in layers for values in config.grid()]
    context, rows = editing.context, _tried(editing, identity)
    if rows:
        context.log(f"Resumed: {len(rows)} of {len(candidates)} candidates were tried before.")
    base_nll, caches = mean_nll(editing.model, text), {}
    for layer, values in candidates[len(rows) :]:
        rows.append(try_one(editing, facts, config, layer, values, text, base_nll, caches))
        context.checkpoints.save(len(rows), lambda directory: _keep(directory, identity, rows))
        context.log(f"layer {layer} {values or ''}: score {rows[-1]['score']:.3f}".replace("  ", " "))
        context.report(len(rows), len(candidates), {"score": rows[-1]["score"]})
    return rows


def try_one(
    editing: Editing,
    facts: Sequence[Fact],
    config: SweepEditLayersConfig,
    layer: int,
    values: dict[str, Any],
    text: Sequence[Tensor],
    base_nll: float,
    caches: dict[bytes, list[Mapping[str, Tensor]]],
) -> Row:
    """``caches`` has what was found for each fact under other values that its search does not depend on."""
    card = METHODS[config.method]
    options = config.candidate(layer, values)
    parsed = parse_config(card.config_class, options, where=f"options of {config.method}")
    search = canonical_json(
        {name: value for name, value in parsed.cache_fields().items() if name not in ("ridge", "ridge_share", "energy")}
    )
    if search not in caches:
        caches[search] = _searched(card.function, editing, facts, parsed)
    found = caches[search]
    shares: dict[str, list[bool]] = {"success": [], "paraphrase": [], "neighbourhood": [], "free": []}
    lost, changes, nll = [], [], []
    for place, fact in enumerate(facts):
        edit = card.function.edit(replace(editing, cache=found[place] if found else {}), [fact], parsed)
        weights = dict(editing.model.named_parameters())
        changes.append(max(float(one.stored.norm() / weights[one.name].cpu().norm()) for one in edit.changes))
        nll += [one["nll"] for one in edit.facts if "nll" in one]
        with written(editing.model, edit.changes):
            for name, outcomes in judged(editing, fact).items():
                shares[name] += outcomes
            lost.append(mean_nll(editing.model, text) - base_nll)
    row: Row = {"layer": layer, "options": {name: options[name] for name in (*SEARCHED, *values) if name in options}}
    row |= {name: _mean(outcomes) for name, outcomes in shares.items()}
    row |= {"perplexity_ratio": math.exp(_mean(lost) or 0.0), "relative_change": _mean(changes), "nll": _mean(nll)}
    return row | {"score": score(row, config.penalty)}


def judged(editing: Editing, fact: Fact) -> dict[str, list[bool]]:
    """Outcomes of the questions about an edited fact, in one round of passes."""
    edited, true, new = was_edited([fact]), fact.target_true or "", fact.target_new
    prompts = [fact.text, *fact.paraphrases]
    near = [probe for probe in fact.neighbours if not edited(probe, fact.relation) and new not in probe.answers]
    asked: list[tuple[Pair, Pair]] = [((prompt, new), (prompt, true)) for prompt in prompts]
    asked += [((probe.prompt, probe.answers[0]), (probe.prompt, new)) for probe in near]
    said = answers(editing.model, editing.tokenizer, [pair for two in asked for pair in two])
    better = (said.nll[0::2] < said.nll[1::2]).tolist()
    count = len(prompts)
    return {"success": better[:1], "paraphrase": better[1:count], "neighbourhood": better[count:], "free": said.free[:1].tolist()}


def score(row: Mapping[str, Any], penalty: float) -> float:
    """Aspects that nothing was asked about are left out."""
    shares = [row[name] for name in ("success", "paraphrase", "neighbourhood") if row[name] is not None]
    mean = len(shares) / sum(1 / share for share in shares) if all(shares) else 0.0
    return mean - penalty * max(0.0, math.log(row["perplexity_ratio"]))


def _searched(method: EditMethod, editing: Editing, facts: Sequence[Fact], options: Any) -> list[Mapping[str, Tensor]]:
    """What is found for all facts at once, by fact; nothing of a method that keeps none or takes one at a time."""
    if method.most is not None or not method.resolvable:
        return []
    cache = method.edit(editing, facts, options).cache
    return [{name: tensor[place : place + 1] for name, tensor in cache.items()} for place in range(len(facts))]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _keep(directory: Path, identity: Any, rows: Sequence[Row]) -> None:
    (directory / TRIED).write_text(json.dumps({"identity": identity, "rows": rows}))


def _tried(editing: Editing, identity: Any) -> list[Row]:
    directory = editing.context.checkpoints.latest()
    kept = json.loads((directory / TRIED).read_text()) if directory else {}
    return kept["rows"] if kept.get("identity") == json.loads(json.dumps(identity)) else []
