"""The rounds of an edit, one after the other: each is computed, judged, written into the model, and kept as a checkpoint.

G5: a round that cannot stay is taken back (its weights are restored, nothing is subtracted), and what it wrote is written in halves; a
fact that cannot stay alone is quarantined, and the others go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lfm_tasks.editing.files import read_caches, read_state, write_caches, write_state
from lfm_tasks.editing.guards import Check, failed
from lfm_tasks.editing.interference import nearest_key
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.writing import copies, put_back
from lfm_tasks.errors import DataError, NonFiniteLoss
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.edits import Round, apply_edits, read_edits, save_edits
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.installing import install

PROGRESS = "progress.json"
Cache = Mapping[str, Tensor]


@dataclass(frozen=True)
class Finished:
    """A round that has just been written into ``editing.model``, for a guard to look at."""

    editing: Editing
    facts: Sequence[Fact]
    edit: Edit
    rounds: Sequence[Round]
    """Those before, and this one last."""
    base: Mapping[str, Tensor] = field(default_factory=dict)
    """The base's weights, of those that any round changed."""
    at_base: Callable[[], AbstractContextManager[None]] = nullcontext
    """Inside the block the model has the base's weights."""


@dataclass(frozen=True)
class Verdict:
    """A round stays unless one of ``checks`` failed."""

    checks: Sequence[Check] = ()
    right: Mapping[str, bool] = field(default_factory=dict)
    """Of the round's facts by id: whether the model says the new target by itself."""


Guard = Callable[[Finished], Verdict]
"""The model may be run, not changed."""


@dataclass
class Rounds:
    """``editing.model`` is the base; afterwards it has the rounds ``before`` and the new ones that stay in its weights."""

    editing: Editing
    method: EditMethod
    name: str
    options: Any
    plan: Sequence[Sequence[Fact]]
    identity: Any
    """Plain JSON: which edit it is, so that no other one's checkpoint is gone on from."""
    guard: Guard | None = None
    known: Mapping[str, Fact] = field(default_factory=dict)
    """Facts of the rounds before, by id."""
    before: Sequence[Round] = ()
    caches: list[Cache] = field(default_factory=list)
    """Of each round that stays, those before too."""
    given: Sequence[Cache] = ()
    """Of each round of the plan, what is known already; nothing where all is to be found."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    new: list[Round] = field(default_factory=list)
    quarantined: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts that could not stay, by id: the reason, the checks that failed, the nearest key of a fact that was there before."""
    finished: int = 0
    base: dict[str, Tensor] = field(default_factory=dict)
    """The base's weights, of those that any round changed."""
    _put_in: Callable[[], Any] | None = None
    _handle: Any = None
    """What takes the memory out that is in the model's way just now."""

    def run(self) -> None:
        """Raises :class:`~lfm_tasks.errors.AttemptKilled` between rounds, whose checkpoint is kept."""
        self.known = {**self.known, **{fact.id: fact for facts in self.plan for fact in facts}}
        self._apply(self.before)
        self._resume()
        for place in range(self.finished, len(self.plan)):
            self._round(self.plan[place], self.given[place] if self.given else {})
            self.finished += 1
            self.editing.context.checkpoints.save(self.finished, self._write)
            self.editing.context.report(self.finished, len(self.plan), self._measured())

    def add(self, written: Round) -> None:
        """A round that no method made, where it changes anything."""
        if written.changes:
            self._apply([written])
            self.new.append(written)
            self.caches.append({})

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """Inside the block the model has the base's weights and no memory; afterwards what it had, bit for bit."""
        if self._handle is not None:
            self._handle.remove()
        now = copies(self.editing.model, self.base)
        put_back(self.editing.model, self.base)
        try:
            yield
        finally:
            put_back(self.editing.model, now)
            if self._handle is not None:
                self._handle = self._put_in()

    def _round(self, facts: Sequence[Fact], cache: Cache) -> None:
        editing = replace(self.editing, state=self.state, cache=cache, at_base=self.at_base)
        try:
            edit = self.method.edit(editing, facts, self.options)
            self._refuse_infinite(edit)
        except (NonFiniteLoss, DataError) as error:
            if self.guard is None:
                raise
            self._divide(facts, {}, [], str(error))
            return
        note = {
            "method": self.name,
            "options": self.options.cache_fields(),
            "seed": self.editing.seed,
            "state": {name: list(tensor.shape) for name, tensor in edit.state.items()},
            "figures": dict(edit.figures),
            "facts": [dict(one) for one in edit.facts],
        }
        written = Round(tuple(fact.id for fact in facts), edit.changes, note)
        kept = copies(self.editing.model, {change.name for change in edit.changes})
        self._apply([written])
        with self._in_place(edit.state):
            verdict = Verdict() if self.guard is None else self.guard(self._as_finished(editing, facts, edit, written))
        if missed := failed(verdict.checks):
            put_back(self.editing.model, kept)
            self._divide(facts, edit.cache, missed, " ".join(map(str, missed)))
            return
        self._keep(written, edit, verdict)

    def _refuse_infinite(self, edit: Edit) -> None:
        """With a guard it is a check as any other."""
        for change in edit.changes:
            if self.guard is None and not bool(change.left.isfinite().all() and change.right.isfinite().all()):
                raise NonFiniteLoss(f"The change of {change.name} is not finite. Set a smaller learning_rate, or a larger ridge_share.")

    def _as_finished(self, editing: Editing, facts: Sequence[Fact], edit: Edit, written: Round) -> Finished:
        return Finished(editing, facts, edit, [*self.before, *self.new, written], self.base, self.at_base)

    def _keep(self, written: Round, edit: Edit, verdict: Verdict) -> None:
        blank = [{} for _ in written.facts]
        facts = [
            dict(figures) | ({"right": float(verdict.right[name])} if name in verdict.right else {})
            for name, figures in zip(written.facts, written.note["facts"] or blank, strict=True)
        ]
        note = {**written.note, "facts": facts, "guards": [check.to_json() for check in verdict.checks]}
        self.new.append(replace(written, note=note))
        self.caches.append(edit.cache)
        self.state = edit.state
        for check in verdict.checks:
            if check.outcome == "warn":
                self.editing.context.log(f"Round of {', '.join(written.facts)}: {check}")

    def _divide(self, facts: Sequence[Fact], cache: Cache, missed: Sequence[Check], why: str) -> None:
        """The facts that a check names are quarantined and the others written; if it names none, one half after the other, with what
        was found for all of them on the model before."""
        named = {name for check in missed for name in check.facts} or ({facts[0].id} if len(facts) == 1 else set())
        for fact in facts:
            if fact.id in named:
                self._quarantine(fact, missed, why)
        self.editing.context.log(f"The round of {', '.join(fact.id for fact in facts)} does not stay: {why}")
        rest = [place for place, fact in enumerate(facts) if fact.id not in named]
        halves = [rest] if named else [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
        for half in (half for half in halves if half):
            self._round([facts[place] for place in half], {name: tensor[half] for name, tensor in cache.items()})

    def _quarantine(self, fact: Fact, missed: Sequence[Check], why: str) -> None:
        earlier = [self.known[name] for one in (*self.before, *self.new) for name in one.facts if name in self.known]
        own = [check for check in missed if fact.id in check.facts] or missed
        self.quarantined[fact.id] = {
            "round": self.finished,
            "reason": " ".join(map(str, own)) or why,
            "checks": [check.to_json() for check in own],
            "nearest": nearest_key(
                self.editing, fact, earlier, [change.name for one in (*self.before, *self.new) for change in one.changes]
            ),
        }

    def _apply(self, rounds: Sequence[Round]) -> None:
        names = {change.name for one in rounds for change in one.changes}
        known = {name for name, _ in self.editing.model.named_parameters()}
        self.base |= copies(self.editing.model, names & known - self.base.keys())
        apply_edits(self.editing.model, rounds)

    def _measured(self) -> dict[str, float]:
        """The last round's checks, as a series over rounds."""
        checks = self.new[-1].note["guards"] if self.new else []
        return {f"guard/{check['name']}": check["value"] for check in checks} | {"quarantined": float(len(self.quarantined))}

    @property
    def memory(self) -> Memory:
        return Memory(self.name, self.options.model_dump(mode="json"), self.state)

    @contextmanager
    def _in_place(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """The memory that the round left, while a guard looks; :meth:`at_base` takes it out."""
        if not self.method.memory:
            yield
            return
        memory = Memory(self.name, self.options.model_dump(mode="json"), state)
        self._put_in = partial(install, self.editing.model, memory, self.editing.tokenizer)
        self._handle = self._put_in()
        try:
            yield
        finally:
            self._handle.remove()
            self._handle = None

    def _write(self, directory: Path) -> None:
        save_edits(directory, self.new)
        write_state(directory, self.state)
        write_caches(directory, self.caches[len(self.before) :])
        progress = {"identity": self.identity, "finished": self.finished, "quarantined": self.quarantined}
        (directory / PROGRESS).write_text(json.dumps(progress))

    def _resume(self) -> None:
        directory = self.editing.context.checkpoints.latest()
        if directory is None:
            return
        progress = json.loads((directory / PROGRESS).read_text())
        if progress["identity"] != self.identity:
            return
        self.finished, self.quarantined = progress["finished"], progress["quarantined"]
        self.new, self.state = read_edits(directory), read_state(directory)
        self.caches += read_caches(directory, len(self.new))
        self._apply(self.new)
        self.editing.context.log(f"Resumed after round {self.finished} of {len(self.plan)}.")


def plan_rounds(facts: Sequence[Fact], size: int, most: int | None) -> list[Sequence[Fact]]:
    """``size`` 0: as many as the method can."""
    step = min(size or len(facts), most or len(facts))
    return [facts[start : start + step] for start in range(0, len(facts), step)]
