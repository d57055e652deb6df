"""The rounds of an edit, one after the other: each is computed, judged, written into the model, and kept as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.errors import NonFiniteLoss
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.edits import Round, apply_edits, read_edits, save_edits
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.installing import installed

STATE = "edit_state.safetensors"
PROGRESS = "progress.json"


@dataclass(frozen=True)
class Finished:
    """A round that has just been written into ``editing.model``, for a guard to look at."""

    editing: Editing
    facts: Sequence[Fact]
    edit: Edit
    rounds: Sequence[Round]
    """Those before, and this one last."""


Guard = Callable[[Finished], str]
"""Why the round cannot stay; nothing: it stays. The model may be run, not changed."""


def accept(finished: Finished) -> str:
    """The guard of an edit without guards."""
    return ""


@dataclass
class Rounds:
    """``editing.model`` has the ``before`` in its weights; afterwards also the new ones that stay."""

    editing: Editing
    method: EditMethod
    name: str
    options: Any
    plan: Sequence[Sequence[Fact]]
    identity: Any
    """Plain JSON: which edit it is, so that no other one's checkpoint is gone on from."""
    guard: Guard = accept
    before: Sequence[Round] = ()
    new: list[Round] = field(default_factory=list)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Facts of rounds that did not stay, and why."""
    finished: int = 0

    def run(self) -> None:
        """Raises :class:`~lfm_tasks.errors.AttemptKilled` between rounds, whose checkpoint is kept."""
        self._resume()
        for facts in self.plan[self.finished :]:
            self._round(facts)
            self.finished += 1
            self.editing.context.checkpoints.save(self.finished, self._write)
            self.editing.context.report(self.finished, len(self.plan))

    def add(self, written: Round) -> None:
        """A round that no method made, where it changes anything."""
        if written.changes:
            apply_edits(self.editing.model, [written])
            self.new.append(written)

    def _round(self, facts: Sequence[Fact]) -> None:
        editing = replace(self.editing, state=self.state)
        edit = self.method.edit(editing, facts, self.options)
        for change in edit.changes:
            if not bool(change.left.isfinite().all() and change.right.isfinite().all()):
                raise NonFiniteLoss(f"The change of {change.name} is not finite. Set a smaller learning_rate, or a larger ridge_share.")
        note = {"method": self.name, "figures": dict(edit.figures), "facts": [dict(one) for one in edit.facts]}
        written = Round(tuple(fact.id for fact in facts), edit.changes, note)
        weights = dict(editing.model.named_parameters())
        kept = {name: weights[name].detach().clone() for name in {change.name for change in edit.changes}}
        apply_edits(editing.model, [written])
        with self._in_place(edit.state):
            why = self.guard(Finished(editing, facts, edit, [*self.before, *self.new, written]))
        if why:
            with torch.no_grad():
                for name, weight in kept.items():
                    weights[name].copy_(weight)
            self.refused |= dict.fromkeys(written.facts, why)
            editing.context.log(f"The round of {', '.join(written.facts)} does not stay: {why}")
            return
        self.new.append(written)
        self.state = edit.state

    @property
    def memory(self) -> Memory:
        return Memory(self.name, self.options.model_dump(mode="json"), self.state)

    def _in_place(self, state: Mapping[str, Tensor]) -> AbstractContextManager[Any]:
        """The memory that the round left, while a guard looks."""
        if not self.method.memory:
            return nullcontext()
        memory = Memory(self.name, self.options.model_dump(mode="json"), state)
        return installed(self.editing.model, memory, self.editing.tokenizer)

    def _write(self, directory: Path) -> None:
        save_edits(directory, self.new)
        write_state(directory, self.state)
        progress = {"identity": self.identity, "finished": self.finished, "refused": self.refused}
        (directory / PROGRESS).write_text(json.dumps(progress))

    def _resume(self) -> None:
        directory = self.editing.context.checkpoints.latest()
        if directory is None:
            return
        progress = json.loads((directory / PROGRESS).read_text())
        if progress["identity"] != self.identity:
            return
        self.finished, self.refused = progress["finished"], progress["refused"]
        self.new, self.state = read_edits(directory), read_state(directory)
        apply_edits(self.editing.model, self.new)
        self.editing.context.log(f"Resumed after round {self.finished} of {len(self.plan)}.")


def plan_rounds(facts: Sequence[Fact], size: int, most: int | None) -> list[Sequence[Fact]]:
    """``size`` 0: as many as the method can."""
    step = min(size or len(facts), most or len(facts))
    return [facts[start : start + step] for start in range(0, len(facts), step)]


def write_state(directory: Path, state: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}, directory / STATE)


def read_state(directory: Path) -> dict[str, Tensor]:
    """Nothing where none was kept."""
    path = directory / STATE
    return load_file(path) if path.is_file() else {}
