"""Named locks that every worker shares, and that end with the process that holds them, however it ends.

With a PostgreSQL ledger they are advisory locks of a session; with a SQLite ledger, file locks beside the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from lfm_tasks.errors import Unavailable

SECONDS_TO_WAIT = 60.0


class Locks:
    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @contextmanager
    def hold(self, name: str, seconds: float = SECONDS_TO_WAIT) -> Iterator[None]:
        """Hold the lock ``name`` for the block; raises :class:`Unavailable` when another holds it for ``seconds``."""
        hold = _hold_row if self._engine.dialect.name == "postgresql" else _hold_file
        with hold(self._engine, name, seconds):
            yield


@contextmanager
def _hold_row(engine: sa.Engine, name: str, seconds: float) -> Iterator[None]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    try:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except sa.exc.OperationalError as error:
        raise Unavailable(f"The ledger's database did not answer ({str(error.orig).strip()}). Start it or set LFM_LEDGER_URI.") from error
    with connection:
        deadline = time.monotonic() + seconds
        while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
            _wait(name, deadline)
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": key})


@contextmanager
def _hold_file(engine: sa.Engine, name: str, seconds: float) -> Iterator[None]:
    directory = Path(f"{engine.url.database}.locks")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / hashlib.sha256(name.encode()).hexdigest()[:32]).open("a") as file:
        deadline = time.monotonic() + seconds
        while not _try_lock(file.fileno()):
            _wait(name, deadline)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(name: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Unavailable(f"Another process still works on {name!r}. Run the step again when it is done.")
    time.sleep(0.02)
