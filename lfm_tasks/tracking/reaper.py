"""Close the runs of processes that were killed before they could: they stay RUNNING in MLflow for ever otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from mlflow.entities import Run

from lfm_tasks.tracking.records import RECORD
from lfm_tasks.tracking.tracker import KEY, Tracker

IsAlive = Callable[[Mapping[str, str]], bool | None]


@dataclass(frozen=True)
class Reaped:
    """A run that was closed, and as what."""

    run_id: str
    key: str
    status: str


def reap(tracker: Tracker, is_alive: IsAlive, older_than: timedelta | None = None) -> list[Reaped]:
    """Close runs that are RUNNING though nothing runs: as KILLED, or as FINISHED where the record is already logged.

    ``is_alive`` is given a run's tags and says True, False, or None for "cannot tell"; the runs that it cannot tell of are
    closed when they began longer than ``older_than`` ago, and left alone when that is None.
    """
    found = tracker.search("attributes.status = 'RUNNING'")
    dead = [run for run in found if _is_dead(run, is_alive, older_than)]
    return [reaped for run in dead if (reaped := _close(tracker, run)) is not None]


def _is_dead(run: Run, is_alive: IsAlive, older_than: timedelta | None) -> bool:
    alive = is_alive(run.data.tags)
    if alive is not None:
        return not alive
    age = timedelta(milliseconds=time.time() * 1000 - run.info.start_time)
    return older_than is not None and age > older_than


def _close(tracker: Tracker, run: Run) -> Reaped | None:
    """None where the run ended by itself while the question was asked."""
    client, run_id = tracker.connection.client, run.info.run_id
    now = tracker.connection.call(client.get_run, run_id)
    if now.info.status != "RUNNING":
        return None
    status = "FINISHED" if RECORD in now.data.tags else "KILLED"
    tracker.connection.call(client.set_tag, run_id, "lfm.reaped", "true")
    tracker.connection.call(client.set_terminated, run_id, status)
    return Reaped(run_id, now.data.tags.get(KEY, ""), status)
