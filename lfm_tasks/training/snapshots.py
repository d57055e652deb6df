"""Models along a run: which steps, and the trained parameters there, in files, so that memory does not grow with their number."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lfm_tasks.errors import ConfigError

PATTERN = "snapshot-*.safetensors"


def snapshot_steps(steps: int, last: int, every: int = 0) -> list[int]:
    """The ``last`` steps of which the model is kept, the newest that of the run's end: ``every`` steps apart, or spread evenly (0).

    Raises :class:`ConfigError` where the run has too few steps for them.
    """
    most = 1 + (steps - 1) // every if every else steps
    if last > most:
        apart = f" that lie {every} apart" if every else ""
        raise ConfigError(f"keep_last={last}: the run has {steps} steps{apart}, so at most {most}. Keep fewer models, or train for longer.")
    if every:
        return [steps - place * every for place in reversed(range(last))]
    return [place * steps // last for place in range(1, last + 1)]


@dataclass(frozen=True)
class Snapshots:
    """``directory`` is scratch space; a checkpoint of the run holds a copy of what was taken by then."""

    directory: Path
    steps: frozenset[int]

    def take(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        if step in self.steps:
            self.directory.mkdir(parents=True, exist_ok=True)
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in parameters.items()}
            save_file(plain, self.directory / f"snapshot-{step:012d}.safetensors")

    def files(self) -> list[Path]:
        """In the order of their steps."""
        return sorted(self.directory.glob(PATTERN))

    def copy_to(self, checkpoint: Path) -> None:
        for path in self.files():
            shutil.copyfile(path, checkpoint / path.name)

    def copy_from(self, checkpoint: Path) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in checkpoint.glob(PATTERN):
            shutil.copyfile(path, self.directory / path.name)
