"""One job on many processes (torchrun, accelerate): rank 0 is the attempt; the others stand by and compute with it.

Rank 0 alone talks to MLflow, the store and Airflow. A step that divides its work (:attr:`Step.distributed`) runs in every
process; during any other step the others wait. They share a file system with rank 0: inputs are directories.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lfm_tasks.config import Config
from lfm_tasks.registry import Step
from lfm_tasks.step import Input, Outcome, StepContext
from lfm_tasks.steps import STEPS

PATIENCE = timedelta(days=7)
"""How long the others wait for rank 0, which may be reading terabytes."""


def world() -> int:
    """Processes of this job, as its launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_follower() -> bool:
    return world() > 1 and int(os.environ["RANK"]) > 0


@contextmanager
def leading() -> Iterator[None]:
    """In rank 0: the others are at hand inside the block and are sent home at its end."""
    if world() == 1:
        yield
        return
    with _group():
        try:
            yield
        finally:
            _tell(None)


def compute(step: Step, config: Config, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """The step's function, in every process where it divides its work. Called in rank 0, inside :func:`leading`."""
    if world() > 1 and step.distributed:
        _tell((step.name, config.model_dump(mode="json"), dict(inputs)))
    return step.function(config, inputs, context)


def follow() -> int:
    """In the other ranks: run what rank 0 runs until it sends this process home. The exit code."""
    with _group():
        while (told := _tell(None)) is not None:
            name, values, inputs = told
            step = STEPS[name]
            with TemporaryDirectory(prefix="lfm-rank-") as directory:
                step.function(step.config_class.model_validate(values), inputs, Follower(Path(directory)))
    return 0


@dataclass(frozen=True)
class Follower:
    """The context of a rank that is not the attempt: it reports, keeps and decides nothing."""

    workdir: Path
    registry: Any = None

    @property
    def checkpoints(self) -> Follower:
        return self

    def latest(self) -> None:
        return None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        return None

    def report(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        return None

    def stop_requested(self) -> bool:
        return False

    def log(self, message: str) -> None:
        return None


@contextmanager
def _group() -> Iterator[None]:
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _tell(value: Any) -> Any:
    from lfm_tasks.models.ranks import Ranks

    return Ranks.current().tell(value)
