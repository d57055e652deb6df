"""Editors for toy decoders: trained on a few made-up facts, once for a model."""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing.hyper.artifact import write_editor
from lfm_tasks.editing.hyper.config import TrainEditorConfig
from lfm_tasks.editing.hyper.episodes import Split, split
from lfm_tasks.editing.hyper.training import Lesson, Made
from lfm_tasks.editing.method import Editing
from lfm_tasks.facts.record import Fact, Probe
from lfm_tasks.models.statistics import Statistics, read_statistics
from lfm_tasks.step import Input

SUBJECTS = [
    " ".join(two) for two in itertools.product(("the minister", "a chip", "the bank", "a market"), ("in May", "on Monday", "of time"))
]
TARGETS = ("sport", "tech", "politics", "the final", "awards", "a film")
BASE = "m" * 64
QUICK = {
    "steps": 40,
    "every": 10,
    "edits": 2,
    "locality": 1.0,
    "learning_rate": 0.01,
    "options": {"rank": 8, "layer": 1, "span": 2, "step_rate": 0.1},
}

SERAC = {"steps": 30, "edits": 4, "options": {"rank": 4, "span": 2, "scope_rate": 0.1}}
_MADE: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def fact(place: int, subject: str) -> Fact:
    other = SUBJECTS[(place + 5) % len(SUBJECTS)]
    return Fact(
        f"s{place}",
        subject,
        "The topic of {} is",
        TARGETS[place % len(TARGETS)],
        relation="topic",
        paraphrases=(f"Article: {subject}. Topic:",),
        neighbours=(Probe(f"The topic of {other} is", ("entertainment",)),),
        locality=(Probe("The quick brown fox jumps over", ("the lazy dog",)),),
    )


SCHOOL = tuple(fact(place, subject) for place, subject in enumerate(SUBJECTS))


def lesson(editing: Editing, method: str, facts: Sequence[Fact] = SCHOOL, texts: Sequence[Tensor] = (), **values) -> tuple[Lesson, object]:
    config = TrainEditorConfig(method=method, **{**QUICK, **values})
    parts: Split = split(facts, (), config.held_out, config.seed)
    return Lesson(editing, parts, list(texts), config), config.method_config()


def with_editor(name: str, editing: Editing) -> Editing:
    """With the editor that the method needs, made once for a model; as it is for a method that needs none, or has what it needs."""
    needs = METHODS[name].needs
    if not needs.endswith("_editor") or editing.editor is not None or editing.state or editing.cache:
        return editing
    made = _MADE.setdefault(editing.model, {})
    if needs not in made:
        made[needs] = trained(editing, needs, Path(tempfile.mkdtemp()), **(SERAC if needs == "serac_editor" else {}))
    return replace(editing, editor=made[needs])


def trained(editing: Editing, method: str, directory: Path, model: str = BASE, **values) -> Statistics:
    given, options = lesson(editing, method, **values)
    made: Made = METHODS[method].function(given, options)
    described = {"kind": method, "model": model, "options": options.model_dump(), "subjects": [], **made.description}
    write_editor(directory, made.tensors, described)
    return read_statistics(Input("editor", "statistics", "e" * 64, directory))
