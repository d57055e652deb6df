"""The step *train_editor*: an editor for one model, learnt from facts that will not be edited."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing.edit import base_of, open_editing, text_of
from lfm_tasks.editing.hyper.artifact import write_editor
from lfm_tasks.editing.hyper.config import TrainEditorConfig
from lfm_tasks.editing.hyper.episodes import split
from lfm_tasks.editing.hyper.loop import Trained
from lfm_tasks.editing.hyper.training import Lesson, Made
from lfm_tasks.facts.reading import read_facts
from lfm_tasks.facts.record import subject_of
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.step import Input, Outcome, Output, StepContext

MOST_ROWS = 4096
"""Of general text."""


def run(config: TrainEditorConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Raises :class:`~lfm_tasks.errors.DataError` for facts that cannot be used or are too few, and as opening the model does."""
    began, base = time.process_time(), base_of(inputs["model"])
    edited = read_facts(inputs["edited"].path) if "edited" in inputs else []
    facts = split(read_facts(inputs["facts"].path), edited, config.held_out, config.seed)
    editing = open_editing({"model": base}, context, config.seed)
    texts = text_of(inputs, editing, MOST_ROWS) if "general" in inputs else []
    options = config.method_config()
    made: Made = METHODS[config.method].function(Lesson(editing, facts, texts, config), options)
    description = {
        "kind": config.method,
        "model": base.sha256,
        "dataset": inputs["facts"].sha256,
        "options": options.model_dump(mode="json"),
        "subjects": sorted({subject_of(fact) for fact in (*facts.train, *facts.held_out)}),
        "looks": [{"step": one.step, "score": one.score, **one.parts} for one in made.trained.looks],
        **made.description,
    }
    write_editor(context.workdir / "editor", made.tensors, description)
    first, best = made.trained.looks[0], made.trained.best
    metrics = {
        "facts": float(len(facts.train)),
        "facts_held_out": float(len(facts.held_out)),
        "steps": float(made.trained.steps),
        "best_step": float(best.step),
        "numbers_kept": float(sum(tensor.numel() for tensor in made.tensors.values())),
        **{f"held_out/{name}": value for name, value in {"score": best.score, **best.parts}.items()},
        **{f"untrained/{name}": value for name, value in {"score": first.score, **first.parts}.items()},
        "cpu_seconds": time.process_time() - began,
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    summary = {"method": config.method, "facts": len(facts.train), "held_out": len(facts.held_out), "best_step": best.step}
    outputs = {"editor": Output("statistics", context.workdir / "editor")}
    return Outcome(outputs, metrics, summary, (_figure(made.trained, context.workdir),))


def _figure(trained: Trained, workdir: Path) -> Path:
    directory = workdir / "figures"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "looks.json"
    path.write_text(json.dumps([{"step": one.step, "score": one.score, **one.parts} for one in trained.looks], indent=1))
    return path
