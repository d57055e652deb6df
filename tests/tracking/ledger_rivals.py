"""Processes that try to move an alias: run in children, so this imports what they need once for all of them."""

from __future__ import annotations

import os
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import Conflict
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.tracker import Tracker


def rival(home: Path, sha256: str, expected: str | None, start: Barrier, said: Queue) -> None:
    """Promote when all are ready; say "won" or "lost"."""
    tracker = _tracker(home)
    start.wait(60)
    try:
        tracker.registry.promote("m", "champion", _input(sha256), expected, "rival", "e" * 64)
        said.put("won")
    except Conflict:
        said.put("lost")


def die_between_ledger_and_alias(home: Path, sha256: str, expected: str | None) -> None:
    """Promote, and be killed after the ledger's entry is written and before the alias is moved."""
    tracker = _tracker(home)
    tracker._client.set_registered_model_alias = lambda *_: os.kill(os.getpid(), 9)
    tracker.registry.promote("m", "champion", _input(sha256), expected, "rival", "e" * 64)


def _tracker(home: Path) -> Tracker:
    settings = Settings(home=home)
    return Tracker.open(settings, Store.open(settings.store))


def _input(sha256: str) -> Input:
    return Input(f"sha256:{sha256}", "model", sha256, Path("."))
