"""Tell MLflow of records that it does not hold: after an outage, or into an empty MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import LfmError, Unavailable
from lfm_tasks.tracking.snapshot import Snapshot
from lfm_tasks.tracking.tracker import Tracker


@dataclass
class Counts:
    """``seen`` records in the store, of which ``known`` to MLflow, ``logged`` now, and ``failed`` {address: why}."""

    seen: int
    known: int
    logged: int
    failed: dict[str, str]


def sync_records(store: Store, tracker: Tracker, progress: Callable[[int, int], None] = lambda done, total: None) -> Counts:
    """Replay the records that MLflow does not hold, oldest first, so that makers come before users.

    Raises :class:`TrackingUnavailable` when MLflow goes away; what was replayed until then stays.
    """
    known = tracker.recorded()
    everything = sorted(store.records(), key=lambda item: (item[1]["started"], item[0]))
    fresh = [(address, record) for address, record in everything if address not in known]
    counts = Counts(len(everything), len(everything) - len(fresh), 0, {})
    for done, (address, record) in enumerate(fresh, start=1):
        try:
            with tempfile.TemporaryDirectory() as directory:
                tracker.log_record(address, record, _figures(store, record, Path(directory)))
            counts.logged += 1
        except Unavailable:
            raise
        except LfmError as error:
            counts.failed[address] = str(error)
        progress(done, len(fresh))
    return counts


def sync_registry(store: Store, tracker: Tracker) -> dict[str, list[str]]:
    """Make registered versions and aliases as the ledger's copies in the store name them; {model: what could not be made as it was}."""
    found = {}
    for model, moves in Snapshot.of(store).moves.items():
        try:
            found[model] = tracker.registry.restore(model, moves)
        except Unavailable:
            raise
        except LfmError as error:
            found[model] = [str(error)]
    return found


def _figures(store: Store, record: dict[str, Any], directory: Path) -> list[Path]:
    """Reports and pictures that the step's outputs carry, as files below ``directory``."""
    found = []
    for output in record["outputs"].values():
        prefix = f"artifacts/{output['kind']}/{output['sha256']}/"
        for key in store.backend.list(prefix):
            name = key.removeprefix(prefix)
            if name == "report.md" or name.startswith("figures/"):
                store.backend.get_file(key, directory / Path(name).name)
                found.append(directory / Path(name).name)
    return found
