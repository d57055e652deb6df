"""The contract between the runner and a step: what a step is given, and what it gives back.

A step's ``run(config, inputs, context)`` knows files, tensors and models. It sees no Airflow, no MLflow and no store:
inputs are verified directories on local disk, outputs are directories that it writes below ``context.workdir``. A step that
declares so reads weight files by ranges from where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lfm_tasks.registry import Kind


class RangeReader(Protocol):
    """A weight file that is in the store alone. Its bytes are verified after the step, before anything of it is committed."""

    size: int

    def read(self, offset: int, length: int) -> bytearray:
        """Bytes of the caller's own. Where each read begins at the end of the one before, the verification costs no second read.

        Raises :class:`~lfm_tasks.errors.IntegrityError` where the file is seen not to be what was committed.
        """

    def verify(self) -> None:
        """Verify the file now: before an error is blamed on what it holds. Raises as :meth:`read` does."""


@dataclass(frozen=True)
class Input:
    """A verified artifact on local disk. Borrowed: never written to. ``base`` is set for an adapter."""

    reference: str
    kind: Kind
    sha256: str
    path: Path
    base: Input | None = None
    version: str | None = None
    """Version number, where the reference named a registered model."""
    remote: Mapping[str, RangeReader] = field(default_factory=dict)
    """Weight files that are not on local disk, by their paths below ``path``; none unless the step declares ``ranged``."""


def all_of(inputs: Mapping[str, Input], name: str) -> list[Input]:
    """What a step was given under a name that takes many, in order."""
    return [inputs[key] for key in numbered(inputs, name)]


def numbered(names: Iterable[str], name: str) -> list[str]:
    """``<name>.0``, ``<name>.1``, … as far as they are among ``names``."""
    known, found = set(names), []
    while (key := f"{name}.{len(found)}") in known:
        found.append(key)
    return found


@dataclass(frozen=True)
class Output:
    """A directory to be committed as an artifact."""

    kind: Kind
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What a finished step hands back.

    ``metrics`` are logged to MLflow; ``summary`` is small plain JSON for the XCom, the record and the terminal;
    ``figures`` are files (PNG, HTML, Markdown, JSON) that MLflow shows beside the run.
    """

    outputs: dict[str, Output]
    metrics: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    figures: tuple[Path, ...] = ()


class Checkpoints(Protocol):
    """Checkpoints of one job, kept until the job ends well. A saved checkpoint is whole or absent."""

    def latest(self) -> Path | None:
        """Directory of the newest whole checkpoint, or None."""

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Call ``write`` with an empty directory and put what it wrote in place as the checkpoint of ``step``."""


class Answers(Protocol):
    """What teachers behind an API have answered, by the hash of what they were asked; kept for all jobs, and whole or absent."""

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer to what ``key`` is the hash of, or None where it was never given."""

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer (plain JSON) durably. May be called from several threads."""


@dataclass(frozen=True)
class Move:
    """A finished alias move: the version it now names, the one before, and its place in the ledger."""

    name: str
    alias: str
    version: str
    previous: str | None
    entry: int
    entry_sha256: str
    address: str


@dataclass(frozen=True)
class Verdict:
    """What became of a model that a gate had judged: ``outcome`` is the gate's, ``record`` that of the step *promote*."""

    outcome: str
    moved: bool
    record: str
    time: str


class ModelRegistry(Protocol):
    """Registered models and the ledger of their alias moves."""

    def aliased(self, name: str, alias: str) -> tuple[str, str] | None:
        """(version, artifact sha256) that the alias names, or None."""

    def promote(self, name: str, alias: str, model: Input, expected: str | None, reason: str, evidence: str) -> Move:
        """Register ``model`` as a version (once per artifact) and move the alias by compare-and-set.

        ``expected`` is the version that the alias must name now (None: no version yet); ``evidence`` is the sha256 of the
        decision. Raises :class:`Conflict` when the alias names something else.
        """

    def known_move(self, name: str, alias: str, version: str) -> Move:
        """The ledger's last move of ``alias`` to ``version``; raises :class:`ReferenceRefused` that lists the versions it knows."""

    def rollback(self, name: str, alias: str, to: Move, expected: str | None, reason: str) -> Move:
        """Move the alias back to where ``to`` had put it, by compare-and-set; the evidence is the hash of that entry.

        Raises :class:`Conflict` when the alias does not name ``expected`` any more. Asked again, it answers with the move.
        """

    def verdict(self, model: str, dataset: str) -> Verdict | None:
        """What became of the artifact ``model`` after a gate had judged it on ``dataset``; None where that never ended in a
        decision."""


class StepContext(Protocol):
    """What the runner offers a running step."""

    workdir: Path
    checkpoints: Checkpoints
    answers: Answers
    registry: ModelRegistry

    def report(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Progress and metrics at ``done`` of ``total`` units. Raises :class:`AttemptKilled` once a stop was asked for."""

    def stop_requested(self) -> bool:
        """True once the attempt was asked to stop; a step that can checkpoint does so and raises :class:`AttemptKilled`."""

    def log(self, message: str) -> None:
        """One line for the task's log."""
