"""What the runner tells MLflow: parents, attempts, metrics on the way, and the record at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.references import Reference
from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import Settings
from lfm_tasks.step import ModelRegistry


class Tracker:
    """One connection to MLflow. Every method but :meth:`report` raises :class:`TrackingUnavailable` when MLflow is away."""

    registry: ModelRegistry

    @classmethod
    def open(cls, settings: Settings, store: Store) -> Tracker:
        """Check that MLflow answers, and find or make the experiment ``settings.project``."""
        raise NotImplementedError

    def parent(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        """Run id of the parent run with tag ``lfm.key`` = ``key``; found before it is made."""
        raise NotImplementedError

    def finish_parent(self, key: str, status: str) -> None:
        """Close the parent run; no error where there is none."""
        raise NotImplementedError

    def open_attempt(self, parent_run_id: str | None, key: str, name: str, tags: Mapping[str, str]) -> str:
        """Run id of the attempt ``key`` (which holds the try number); found before it is made. Starts system metrics."""
        raise NotImplementedError

    def report(self, run_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Queue metrics; a thread sends them every two seconds. A failure is a warning, never an error."""
        raise NotImplementedError

    def log_record(self, address: str, record: dict[str, Any], figures: Sequence[Path] = ()) -> dict[str, str]:
        """Put the whole record into MLflow, once; returns {artifact sha256: LoggedModel id} of its models and adapters.

        The record alone is enough: a run that this MLflow does not know is found by its key, or made. Status and times
        are those of the record.
        """
        raise NotImplementedError

    def close_attempt(self, run_id: str, status: str, error: str | None = None) -> None:
        """Send what is queued, stop system metrics, set FINISHED, FAILED or KILLED. Closing twice changes nothing."""
        raise NotImplementedError

    def resolve(self, reference: Reference) -> tuple[str, str]:
        """(artifact sha256, version) that a ``models:/`` reference names; raises :class:`ReferenceRefused` if none."""
        raise NotImplementedError
