"""The step *edit*: facts into a model, round by round; what comes out is an adapter of low-rank changes, the base is not touched."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import canonical_json
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.editing.files import read_caches, read_state, write_caches, write_quarantine, write_state
from lfm_tasks.editing.guards import RULES, Check
from lfm_tasks.editing.held_out import HELD_OUT
from lfm_tasks.editing.measuring import Guards, moments_checks
from lfm_tasks.editing.method import Editing, EditMethod
from lfm_tasks.editing.methods.config import LocatedOptions
from lfm_tasks.editing.moments import moments_of
from lfm_tasks.editing.pipeline import edited_sites
from lfm_tasks.editing.pruning import pruned
from lfm_tasks.editing.rounds import Rounds, plan_rounds
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.facts.reading import FACTS_FILE, parse_fact, read_facts, read_objects, write_facts
from lfm_tasks.facts.record import Fact, subject_of
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.edits import Round, is_edits, read_edits, save_as_lora, save_edits
from lfm_tasks.models.memories.files import is_memory, read_memory, save_memory
from lfm_tasks.models.mixtures.files import refuse_mixture
from lfm_tasks.models.opening import check_vocabulary, model_directory, open_causal_lm, read_adapter
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.models.saving import save_model, write_entry
from lfm_tasks.models.statistics import Statistics, read_statistics
from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest
from lfm_tasks.step import Input, Outcome, Output, StepContext


def run(config: EditConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    rounds = prepare(config, inputs, context)
    rounds.run()
    if config.prune:
        rounds.add(pruned(rounds.editing.decoder, [*rounds.before, *rounds.new]))
    outputs = save(rounds, config, inputs["model"], context.workdir)
    return Outcome(
        outputs=outputs,
        metrics=_metrics(rounds) | {"cpu_seconds": time.process_time() - began, "peak_memory_bytes": float(peak_rss_bytes())},
        summary={
            "method": config.method,
            "facts": sum(len(one.facts) for one in rounds.new),
            "rounds": len(rounds.new),
            "rounds_before": len(rounds.before),
            "quarantined": rounds.quarantined,
        },
        figures=(_figures(rounds, context.workdir / "figures"),),
    )


def prepare(config: EditConfig, inputs: Mapping[str, Input], context: StepContext) -> Rounds:
    """The model with its earlier edits, and the rounds that are to come.

    Raises :class:`IncompatibleModels` for an adapter that holds no edits, a mixture, an encoder, and statistics of another model;
    :class:`~lfm_tasks.errors.DataError` for facts that cannot be used, :class:`ConfigError` for a memory that is to be merged.
    """
    source, method = inputs["model"], METHODS[config.method].function
    if method.memory and (config.save_merged or config.save_lora):
        raise ConfigError(
            f"{config.method} keeps its edits beside the weights, so that no plain model and no LoRA adapter holds them. Set save_merged "
            "and save_lora to false, or choose a method that changes weights."
        )
    facts, base = read_facts(inputs["facts"].path), base_of(source)
    check_goes_on(source, method, config.method)
    editing = open_editing({**inputs, "model": base}, context, config.seed, facts)
    rows, options = [asdict(fact) for fact in facts], config.method_config()
    before = read_edits(source.path) if source.kind == "adapter" else []
    known = edited_facts(source.path) if before else {}
    return Rounds(
        editing=editing,
        method=method,
        name=config.method,
        options=options,
        plan=plan_rounds(facts, config.round_size, method.most),
        identity={
            "config": config.cache_fields(),
            "model": source.sha256,
            "facts": sha256(canonical_json(rows)).hexdigest(),
            "given": {name: one.sha256 for name, one in sorted(inputs.items())},
        },
        guard=None if config.guard == "off" else guards_of(config, inputs, editing, known | {fact.id: fact for fact in facts}),
        known=known,
        before=before,
        caches=read_caches(source.path, len(before)),
        state=read_state(source.path) if before else {},
    )


def open_editing(inputs: Mapping[str, Input], context: StepContext, seed: int, edited: Sequence[Fact] = ()) -> Editing:
    """The base, for editing, with what was given beside it: ``statistics`` and an ``editor`` of it, and ``training`` facts without those
    of a subject that is ``edited``.

    Raises :class:`IncompatibleModels` for an encoder, and for what was made of another model.
    """
    base = inputs["model"]
    model = open_causal_lm(base).requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    editor = made_of(inputs.get("editor"), base, "Train an editor of the base by the step 'train_editor'.")
    subjects = {subject_of(fact) for fact in edited}
    if editor is not None and (known := subjects & set(editor.description["subjects"])):
        context.log(f"The editor was trained on facts of {len(known)} of the {len(subjects)} subjects that are edited, which flatters it.")
    return Editing(
        model,
        open_tokenizer(model_directory(base)),
        Decoder(model),
        seed,
        context,
        statistics=made_of(inputs.get("statistics"), base, "Gather the statistics of the base."),
        editor=editor,
        training=[fact for fact in read_facts(inputs["training"].path) if subject_of(fact) not in subjects] if "training" in inputs else (),
    )


def edited_facts(directory: Path) -> dict[str, Fact]:
    """Those of all rounds, by id. A fact may have been edited again later, so that they are not checked as a set."""
    return {fact.id: fact for fact in (parse_fact(row) for _, row in read_objects(directory / FACTS_FILE))}


def guards_of(config: EditConfig, inputs: Mapping[str, Input], editing: Editing, known: Mapping[str, Fact]) -> Guards:
    """Raises :class:`DataError` for key moments that no fact could be edited with."""
    options, method = config.guard_options(), config.method_config()
    text = text_of(inputs, editing, options.perplexity_rows)
    standing: list[Check] = []
    if isinstance(method, LocatedOptions) and method.covariance == "statistics":
        standing = moments_checks([moments_of(editing, site) for site in edited_sites(editing.decoder, method)], options)
    probe = read_facts(inputs["probe"].path) if "probe" in inputs else ()
    return Guards(options, known, text, [fact for fact in probe if fact.target_true is not None], standing)


def text_of(inputs: Mapping[str, Input], editing: Editing, most: int) -> list[Tensor]:
    """Token ids of the first rows of the general text that was given, or of that of the step's own."""
    if "general" not in inputs:
        return [torch.tensor(editing.tokenizer(text)["input_ids"]) for text in HELD_OUT]
    rows = read_rows(inputs["general"].path, "test", most)
    check_vocabulary(editing.model, tokenizer_digest(model_directory(base_of(inputs["model"]))), rows.description)
    return [torch.from_numpy(ids) for ids in rows.input_ids if len(ids) > 1]


def base_of(source: Input) -> Input:
    """The model below the edits."""
    refuse_mixture(source.path, source.reference)
    if source.kind == "model":
        return source
    if not is_edits(source.path):
        raise IncompatibleModels(
            f"{source.reference} is an adapter of the method {read_adapter(source.path)['method']}, which is not in the model's weights. "
            "Edit its merged model (the output 'model' of the step that made it)."
        )
    model_directory(source)
    return source.base


def check_goes_on(source: Input, method: EditMethod, name: str) -> None:
    """Raise :class:`IncompatibleModels` for a memory of another method, and for edits of the weights below a memory or above one."""
    if source.kind != "adapter":
        return
    kept = read_memory(source.path).method if is_memory(source.path) else None
    if kept is None and not method.memory:
        return
    if kept != name:
        raise IncompatibleModels(
            f"{source.reference} holds edits of {kept or 'the weights'}, which {name} cannot go on from. Edit its base, or edit by "
            f"{kept or 'a method that changes weights'} again."
        )


def made_of(given: Input | None, base: Input, otherwise: str) -> Statistics | None:
    """Of the unedited model: what edits must leave alone is what that knew."""
    if given is None:
        return None
    found = read_statistics(given)
    if found.description["model"] != base.sha256:
        raise IncompatibleModels(
            f"{given.reference} was made from sha256:{found.description['model']}, the edits' base is sha256:{base.sha256}. {otherwise}"
        )
    return found


def save(rounds: Rounds, config: EditConfig, source: Input, workdir: Path) -> dict[str, Output]:
    """All rounds, the earlier ones too, as one adapter on the base."""
    base, every = base_of(source), [*rounds.before, *rounds.new]
    outputs = {"adapter": save_edited(workdir / "adapter", every, rounds.caches, rounds.state, rounds.known, config.method, base)}
    write_quarantine(workdir / "adapter", rounds.quarantined)
    if rounds.method.memory:
        save_memory(workdir / "adapter", rounds.memory)
    if config.save_merged:
        save_model(rounds.editing.model.to("cpu"), base.path, workdir / "model")
        outputs["model"] = Output("model", workdir / "model")
    if config.save_lora:
        save_as_lora(every, workdir / "lora", method=config.method, base_sha256=base.sha256)
        outputs["lora"] = Output("adapter", workdir / "lora")
    return outputs


def save_edited(
    directory: Path,
    rounds: Sequence[Round],
    caches: Sequence[Mapping[str, Tensor]],
    state: Mapping[str, Tensor],
    known: Mapping[str, Fact],
    method: str,
    base: Input,
) -> Output:
    """An adapter on ``base``, and beside it all that a later step needs to go on from it or to take a fact out."""
    save_edits(directory, rounds)
    write_state(directory, state)
    write_caches(directory, caches)
    write_facts([known[name] for name in dict.fromkeys(name for one in rounds for name in one.facts)], directory)
    write_entry(directory, method, base.sha256, "causal_lm", None)
    return Output("adapter", directory)


def _metrics(rounds: Rounds) -> dict[str, float]:
    """Counts; means over the facts of what the method says of each; means over the rounds of what it says of a round."""
    facts = [one for written in rounds.new for one in written.note["facts"]]
    figures = [written.note["figures"] for written in rounds.new]
    checks = [check for written in rounds.new for check in written.note.get("guards", [])]
    counts = {
        "facts_edited": float(sum(len(one.facts) for one in rounds.new)),
        "facts_quarantined": float(len(rounds.quarantined)),
        "rounds": float(len(rounds.new)),
        "guard_warnings": float(sum(check["outcome"] == "warn" for check in checks)),
        "numbers_kept": float(sum(change.left.numel() + change.right.numel() for one in rounds.new for change in one.changes)),
    }
    return counts | {f"fact/{name}": value for name, value in _means(facts).items()} | _means(figures) | _worst(checks)


def _worst(checks: list[dict[str, Any]]) -> dict[str, float]:
    """Over the rounds that stayed."""
    values: dict[str, list[float]] = {}
    for check in checks:
        values.setdefault(check["name"], []).append(check["value"])
    return {f"guard/{name}": (max if RULES[name].bound == "most" else min)(found) for name, found in values.items()}


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in found for name in one)
    return {name: sum(one[name] for one in found if name in one) / sum(name in one for one in found) for name in names}


def _figures(rounds: Rounds, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "rounds.json"
    path.write_text(json.dumps([_described(one) for one in rounds.new], indent=1))
    return path


def _described(one: Round) -> dict[str, Any]:
    ids = [{"id": name} | figures for name, figures in zip(one.facts, one.note["facts"], strict=False)]
    return {"facts": ids, "figures": one.note["figures"], "guards": one.note.get("guards", [])}
