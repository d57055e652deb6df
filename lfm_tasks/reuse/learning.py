"""What a merge method that looks at data is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lfm_tasks.models import resuming
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.plan import Planned
from lfm_tasks.step import StepContext

if TYPE_CHECKING:
    from lfm_tasks.reuse.tasks import Task  # brings model classes, whose import takes longer than a merge without data


@dataclass(frozen=True)
class Learning:
    """The models before they are merged, and their tasks."""

    base: Checkpoint | None
    models: Sequence[Checkpoint]
    planned: Sequence[Planned]
    tasks: Sequence[Task]
    """One for each model, in their order; or the one of a method with ``one_task``."""
    seed: int
    context: StepContext
    checkpoint_every: int = 0
    """Steps between two checkpoints; 0 keeps one only when stopped."""

    @property
    def merged(self) -> list[str]:
        """Names of the tensors that are merged; the others are the donor's."""
        return [one.name for one in self.planned if one.merged]

    def donated(self) -> dict[str, Tensor]:
        """The donor's tensors that are not merged, by name. A head that is kept is left out: each task is read with its own."""
        donor, task = self.base or self.models[0], self.tasks[0]
        backbone = f"{task.module.base_model_prefix}."
        kept = {one.name: donor.read(one.name) for one in self.planned if not one.merged and (task.prefix + one.name).startswith(backbone)}
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in kept.items()}

    def report(self, done: int, steps: int, metrics: Mapping[str, float], state: resuming.State) -> None:
        """Progress of the learning, which the tensors' merge goes on from.

        Raises :class:`AttemptKilled` after a checkpoint once a stop was asked for.
        """
        total, every = steps + len(self.planned), self.checkpoint_every
        resuming.report(self.context, done, total, state, metrics, every=every, what=f"of {steps} steps of learning")

    def keep(self, step: int, state: Mapping[str, Tensor]) -> None:
        """A checkpoint of the learning after ``step`` steps."""
        resuming.keep(self.context, step, state)

    def kept(self) -> dict[str, Tensor]:
        """The state in the job's newest checkpoint; empty where there is none."""
        return resuming.kept(self.context)


@dataclass(frozen=True)
class Learnt:
    """What a method learnt: ``tensors`` for the kernel, by the merged tensors' names, and what a person should see of it."""

    tensors: Mapping[str, Tensor]
    steps: int = 0
    """Units of progress; the tensors that are merged count from there, in reports and checkpoints."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """Kept in every checkpoint of the merge: with it a resumed job need not learn again."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Path, ...] = ()
