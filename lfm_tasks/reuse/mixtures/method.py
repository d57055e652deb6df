"""What a kind of mixture is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from lfm_tasks.errors import ConfigError
from lfm_tasks.models import resuming
from lfm_tasks.models.opening import read_config
from lfm_tasks.reuse.blocks import work_dtype
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import matches
from lfm_tasks.reuse.group import Roles
from lfm_tasks.reuse.mixtures.config import MixConfig
from lfm_tasks.reuse.plan import Planned
from lfm_tasks.reuse.tasks import Task
from lfm_tasks.step import StepContext


@dataclass(frozen=True)
class Mixing:
    """Checked models of one layout; ``models`` are the parts of them that ``base`` is."""

    config: MixConfig
    base: Checkpoint
    models: Sequence[Checkpoint]
    planned: Sequence[Planned]
    tasks: Sequence[Task]
    """One for each model where the step was given data, else none."""
    context: StepContext

    def report(self, step: int, steps: int, state: resuming.State, metrics: Mapping[str, float] | None = None) -> None:
        """Raises :class:`AttemptKilled` after a checkpoint once a stop was asked for."""
        resuming.report(self.context, step, steps, state, metrics, what=f"of {steps} steps")

    def kept(self) -> dict[str, Tensor]:
        """What a stopped attempt of the same job has kept; empty without one."""
        before = resuming.kept(self.context)
        if before:
            self.context.log(f"Resumed: {int(before['step'])} steps were done before.")
        return before

    @property
    def options(self) -> Any:
        return self.config.method_config()

    @cached_property
    def skeleton(self) -> PreTrainedModel:
        return skeleton(self.base.directory)

    @cached_property
    def mergeable(self) -> set[str]:
        """Names of the tensors that the models share and that are numbers."""
        return {one.name for one in self.planned if one.merged}

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Those of the modules ``names`` that the config's patterns allow. Raises :class:`ConfigError` where none is left."""
        patterns = self.config.modules
        found = [name for name in names if not patterns or matches(name, patterns)]
        if not found:
            raise ConfigError(
                f"modules {', '.join(patterns) or '(none given)'}: {type(self.skeleton).__name__} has nothing of these names that "
                f"{self.config.method} can mix. It could mix: {', '.join(sorted(names)[:8]) or 'nothing'}."
            )
        return found

    @cached_property
    def held(self) -> dict[str, Tensor]:
        """The base's tensors as they are stored: mapped, or in memory where they are far away. They are used more than once."""
        return {name: self.base.read(name) for name in self.base.in_order}

    def passing(self, names: Collection[str]) -> Iterator[str]:
        """``names`` in the order of the base's files. The models' tensors in between are read and left.

        A file that is far away is verified as it passes by in order; what is skipped would be read in the end, and all after it again.
        """
        ordered = self.base.in_order
        for place, name in enumerate(ordered):
            for model in self.models:
                for soon in ordered[place : place + 2]:
                    if soon in model.tensors:
                        model.expect(soon)
            if name in names:
                yield name
            else:
                for model in self.models:
                    if name in model.tensors:
                        model.read(name)

    def differences(self, name: str) -> Tensor:
        """What each model changed in a tensor of the base: [models, *shape], in float32 or wider."""
        base = wide(self.held[name])
        return torch.stack([wide(model.read(name)) - base for model in self.models])

    def summed(self, names: Sequence[str], scale: float) -> dict[str, Tensor]:
        """The base's tensors, those of ``names`` plus ``scale`` times all that the models changed, in the base's precision."""
        result = dict(self.held)
        for name in names:
            result[name] = (wide(result[name]) + scale * self.differences(name).sum(0)).to(result[name].dtype)
        return result


def skeleton(directory: Path) -> PreTrainedModel:
    """The architecture of a model directory without its weights."""
    config = read_config(directory)
    architecture = getattr(transformers, (config.architectures or ["AutoModel"])[0], None)
    with torch.device("meta"):
        if isinstance(architecture, type) and issubclass(architecture, PreTrainedModel):
            return architecture(config)
        return AutoModel.from_config(config)


def wide(tensor: Tensor) -> Tensor:
    return tensor.to(work_dtype(tensor))


@dataclass(frozen=True)
class MixMethod(Roles):
    build: Callable[[Mixing, Path], dict[str, float]]
    """Writes the model directory and says what it measured."""
    data: Literal["none", "required", "optional"] = "none"
