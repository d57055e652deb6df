"""The step *edit*: facts into a model, round by round; what comes out is an adapter of low-rank changes, the base is not touched."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import canonical_json
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.editing.method import Editing, EditMethod
from lfm_tasks.editing.pruning import pruned
from lfm_tasks.editing.rounds import Rounds, plan_rounds, read_state, write_state
from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.facts.reading import read_facts
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.edits import Round, is_edits, read_edits, save_as_lora, save_edits
from lfm_tasks.models.memories.files import is_memory, read_memory, save_memory
from lfm_tasks.models.mixtures.files import refuse_mixture
from lfm_tasks.models.opening import model_directory, open_causal_lm, read_adapter
from lfm_tasks.models.saving import save_model, write_entry
from lfm_tasks.models.statistics import Statistics, read_statistics
from lfm_tasks.models.tokenizers import open_tokenizer
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
            "refused": rounds.refused,
        },
        figures=(_figures(rounds, context.workdir / "figures"),),
    )


def prepare(config: EditConfig, inputs: Mapping[str, Input], context: StepContext) -> Rounds:
    """The model with its earlier edits, and the rounds that are to come.

    Raises :class:`IncompatibleModels` for an adapter that holds no edits, a mixture, an encoder, and statistics of another model;
    :class:`~lfm_tasks.errors.DataError` for facts that cannot be used.
    """
    source = inputs["model"]
    facts, base = read_facts(inputs["facts"].path), base_of(source)
    model = (
        open_causal_lm(editable(source, METHODS[config.method].function, config.method))
        .requires_grad_(False)
        .to("cuda" if torch.cuda.is_available() else "cpu")
    )
    method: EditMethod = METHODS[config.method].function
    editing = Editing(
        model=model,
        tokenizer=open_tokenizer(model_directory(source)),
        decoder=Decoder(model),
        seed=config.seed,
        context=context,
        statistics=statistics_of(inputs.get("statistics"), base),
    )
    rows = [asdict(fact) for fact in facts]
    return Rounds(
        editing=editing,
        method=method,
        name=config.method,
        options=config.method_config(),
        plan=plan_rounds(facts, config.round_size, method.most),
        identity={
            "config": config.cache_fields(),
            "model": source.sha256,
            "facts": sha256(canonical_json(rows)).hexdigest(),
            "statistics": inputs["statistics"].sha256 if "statistics" in inputs else "",
        },
        before=read_edits(source.path) if source.kind == "adapter" else (),
        state=read_state(source.path) if source.kind == "adapter" else {},
    )


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


def editable(source: Input, method: EditMethod, name: str) -> Input:
    """What a method edits: the model itself, or below its own memory the base, for the memory goes on in the state.

    Raises :class:`IncompatibleModels` for a memory of another method, and for edits of the weights below a memory or above one.
    """
    kept = read_memory(source.path).method if source.kind == "adapter" and is_memory(source.path) else None
    if source.kind != "adapter" or (kept is None and not method.memory):
        return source
    if kept != name:
        raise IncompatibleModels(
            f"{source.reference} holds edits of {kept or 'the weights'}, which {name} cannot go on from. Edit its base, or edit by "
            f"{kept or 'a method that changes weights'} again."
        )
    return source.base


def statistics_of(given: Input | None, base: Input) -> Statistics | None:
    """Of the unedited model: what edits must leave alone is what that knew."""
    if given is None:
        return None
    found = read_statistics(given)
    if found.description["model"] != base.sha256:
        raise IncompatibleModels(
            f"{given.reference} was made from sha256:{found.description['model']}, the edits' base is sha256:{base.sha256}. Gather the "
            "statistics of the base."
        )
    return found


def save(rounds: Rounds, config: EditConfig, source: Input, workdir: Path) -> dict[str, Output]:
    """All rounds, the earlier ones too, as one adapter on the base."""
    base, every = base_of(source), [*rounds.before, *rounds.new]
    directory = workdir / "adapter"
    save_edits(directory, every)
    write_state(directory, rounds.state)
    if rounds.method.memory:
        save_memory(directory, rounds.memory)
    write_entry(directory, config.method, base.sha256, "causal_lm", None)
    outputs = {"adapter": Output("adapter", directory)}
    if config.save_merged:
        save_model(rounds.editing.model.to("cpu"), base.path, workdir / "model")
        outputs["model"] = Output("model", workdir / "model")
    if config.save_lora:
        save_as_lora(every, workdir / "lora", method=config.method, base_sha256=base.sha256)
        outputs["lora"] = Output("adapter", workdir / "lora")
    return outputs


def _metrics(rounds: Rounds) -> dict[str, float]:
    """Counts; means over the facts of what the method says of each; means over the rounds of what it says of a round."""
    facts = [one for written in rounds.new for one in written.note["facts"]]
    figures = [written.note["figures"] for written in rounds.new]
    counts = {
        "facts_edited": float(sum(len(one.facts) for one in rounds.new)),
        "facts_refused": float(len(rounds.refused)),
        "rounds": float(len(rounds.new)),
        "numbers_kept": float(sum(change.left.numel() + change.right.numel() for one in rounds.new for change in one.changes)),
    }
    return counts | {f"fact/{name}": value for name, value in _means(facts).items()} | _means(figures)


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
    return {"facts": ids, "figures": one.note["figures"]}
