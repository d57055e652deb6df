"""Do again what a record says was done: the same step, config and inputs, into a store of its own.

MLflow, the model registry and the ledger are out of reach here: nothing is logged, registered or moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lfm_tasks.artifacts.answers import KeptAnswers
from lfm_tasks.artifacts.checkpoints import StoreCheckpoints
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, IntegrityError, ReferenceRefused
from lfm_tasks.runner.context import RunningContext
from lfm_tasks.step import Checkpoints, Input, Outcome
from lfm_tasks.steps import STEPS
from lfm_tasks.tracking.lineage import Graph

Record = Mapping[str, Any]


def plan_replay(graph: Graph, address: str) -> list[str]:
    """The records that made ``address``, makers before users. Raises :class:`ConfigError` where no record did."""
    if graph.maker(address) is None:
        raise ConfigError(f"No record says how sha256:{address} was made: it was imported. Replay what a step has made.")
    order: dict[str, None] = {}
    waiting = [(address, False)]
    while waiting:
        artifact, entered = waiting.pop()
        maker = graph.maker(artifact)
        if maker is None or maker in order:
            continue
        if entered:
            order[maker] = None
            continue
        waiting.append((artifact, True))
        waiting += [(edge.source, False) for edge in reversed(graph.into[maker])]
    return list(order)


@dataclass
class Workshop:
    """Rebuilds records one after the other. ``rebuilt`` maps recorded addresses to what came out here instead."""

    store: Store
    scratch: Store
    downloads: Path
    context: RunningContext
    rebuilt: dict[str, Artifact] = field(default_factory=dict)

    def rebuild(self, record: Record) -> tuple[Outcome, dict[str, Artifact], list[str]]:
        """What the step answered, its outputs in the scratch store, and what was odd about its inputs. Raises what the step raises."""
        step = STEPS[record["step"]]
        config = parse_config(step.config_class, record["config"], where=f"recorded config of step {step.name}")
        notes: list[str] = []
        inputs = {name: self._input(name, entry, notes) for name, entry in record["inputs"].items()}
        workdir = self.context.workdir / f"step-{len(list(self.context.workdir.iterdir()))}"
        workdir.mkdir()
        checkpoints = StoreCheckpoints(self.scratch, record["job_id"], workdir / "checkpoints")
        outcome: Outcome = step.function(config, inputs, _Context(workdir, checkpoints, _NoRegistry(), self.context, step.name))
        outputs = {name: self.scratch.commit(output.path, output.kind) for name, output in outcome.outputs.items()}
        for name, artifact in outputs.items():
            if name in record["outputs"]:
                self.rebuilt[record["outputs"][name]["sha256"]] = artifact
        return outcome, outputs, notes

    def _input(self, name: str, entry: Mapping[str, Any], notes: list[str]) -> Input:
        artifact, path = self._pinned(name, entry["sha256"], notes)
        base = None
        if base_sha256 := entry.get("base_sha256"):
            found, where = self._pinned(f"base of {name}", base_sha256, notes)
            base = Input(f"sha256:{found.sha256}", found.kind, found.sha256, where)
        return Input(entry["reference"], artifact.kind, artifact.sha256, path, base, entry.get("version"))

    def _pinned(self, name: str, sha256: str, notes: list[str]) -> tuple[Artifact, Path]:
        """The recorded input, else what was rebuilt in its place."""
        try:
            artifact = self.store.find(sha256)
            return artifact, self.store.materialise(artifact, self.downloads)
        except (ReferenceRefused, IntegrityError) as error:
            if sha256 not in self.rebuilt:
                raise ReferenceRefused(f"Its input '{name}' cannot be had: {error}") from error
            artifact = self.rebuilt[sha256]
            same = "with the same bytes" if artifact.sha256 == sha256 else "with other bytes"
            notes.append(f"The input '{name}' is gone from the store; it was rebuilt {same}.")
            return artifact, self.scratch.materialise(artifact, self.downloads)


class _NoRegistry:
    """A replay moves nothing."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ConfigError("A replay does not touch the model registry.")


@dataclass
class _Context:
    """Implements :class:`lfm_tasks.step.StepContext` inside a replay: progress goes to the log alone."""

    workdir: Path
    checkpoints: Checkpoints
    registry: Any
    outer: RunningContext
    step: str

    @property
    def answers(self) -> KeptAnswers:
        return KeptAnswers(self.outer.tracker.store)

    def report(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self.outer.check_stop(f"in step {self.step} at {done} of {total}")

    def stop_requested(self) -> bool:
        return self.outer.stop_requested()

    def log(self, message: str) -> None:
        self.outer.log(f"[{self.step}] {message}")
