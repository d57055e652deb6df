"""What a running step sees of the world: progress, checkpoints, stop requests, the model registry."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lfm_tasks.artifacts.answers import StoreAnswers
from lfm_tasks.errors import AttemptKilled
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.step import Checkpoints, ModelRegistry

if TYPE_CHECKING:
    from lfm_tasks.tracking.tracker import Tracker

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class RunningContext:
    """Implements :class:`lfm_tasks.step.StepContext` for one attempt."""

    workdir: Path
    checkpoints: Checkpoints
    registry: ModelRegistry
    stop: StopSignal
    tracker: Tracker
    run_id: str
    settings: Settings
    _last_line: float = field(default=0.0, init=False)

    @property
    def answers(self) -> StoreAnswers:
        return StoreAnswers(self.tracker.store)

    def report(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self.tracker.report(self.run_id, done, {"progress/done": done, "progress/total": total, **(metrics or {})})
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or done == total:
            self._last_line = now
            shown = "  ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
            self.log(f"{done}/{total}  {shown}".rstrip())
        self.check_stop(f"at {done} of {total}")

    def check_stop(self, where: str) -> None:
        """Raise :class:`AttemptKilled` once a stop was asked for."""
        if self.stop:
            raise AttemptKilled(f"Stopped on request {where}.")

    def stop_requested(self) -> bool:
        return bool(self.stop)

    def log(self, message: str) -> None:
        print(message, flush=True)
