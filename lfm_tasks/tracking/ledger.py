"""The append-only, hash-chained history of alias moves: a table, and a copy of every entry in the store.

The table is the compare-and-set: its primary key lets one entry take a place. An entry is written *before* MLflow's alias
is moved, so an interrupted move is seen and finished by whoever comes next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.artifacts.store import Store
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import Conflict, Unavailable
from lfm_tasks.tracking.locks import Locks

FIRST = "0" * 64
_TABLES = sa.MetaData()
MOVES = sa.Table(
    "alias_moves",
    _TABLES,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """One alias move. ``sha256`` is over the canonical JSON of ``content``, which holds the hash of the entry before."""

    content: dict[str, Any]
    sha256: str

    @property
    def n(self) -> int:
        return self.content["n"]


class Ledger:
    """``alias_moves`` at a PostgreSQL or SQLite URL, and ``ledger/<model>/<n>.json`` in the store."""

    def __init__(self, url: str, store: Store) -> None:
        address = sa.engine.make_url(url)
        if address.get_backend_name() == "sqlite" and address.database:
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(address, pool_pre_ping=True)
        self._store = store
        self.locks = Locks(self._engine)
        self._made = False

    def entries(self, model: str) -> list[Entry]:
        """The moves of ``model``, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(MOVES.c.entry, MOVES.c.sha256).where(MOVES.c.model == model).order_by(MOVES.c.n))
            return [Entry(json.loads(row.entry), row.sha256) for row in rows]

    def models(self) -> list[str]:
        """Names of the models that have moves."""
        with self._transaction() as connection:
            return sorted(connection.scalars(sa.select(MOVES.c.model).distinct()))

    def append(self, model: str, move: dict[str, Any]) -> Entry:
        """Write ``move`` as the next entry; raises :class:`Conflict` when another took that place first."""
        history = self.entries(model)
        previous = history[-1].sha256 if history else FIRST
        stamp = {"n": len(history) + 1, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "prev_sha256": previous}
        content = {"format": 1, "model": model, **move, **stamp}
        data = canonical_json(content)
        entry = Entry(content, sha256_bytes(data))
        try:
            with self._transaction() as connection:
                connection.execute(MOVES.insert().values(model=model, n=entry.n, entry=data.decode(), sha256=entry.sha256))
        except sa.exc.IntegrityError as error:
            raise Conflict(f"Another process wrote move {entry.n} of {model!r} first. Look at it, then run the gate again.") from error
        return entry

    def copy(self, entry: Entry) -> None:
        """Put the entry's bytes into the store; doing it again changes nothing."""
        self._store.backend.put_bytes(_key(entry.content["model"], entry.n), canonical_json(entry.content))

    def has_copy(self, entry: Entry) -> bool:
        return self._store.backend.exists(_key(entry.content["model"], entry.n))

    def problems(self, model: str) -> list[str]:
        """What is wrong with the chain and its copies in the store; empty when all is well."""
        found, previous, entries = [], FIRST, self.entries(model)
        for place, entry in enumerate(entries, start=1):
            data = canonical_json(entry.content)
            if sha256_bytes(data) != entry.sha256:
                found.append(f"Entry {place} of {model} does not hash to its sha256 {entry.sha256[:12]}: it was changed.")
            if entry.content.get("n") != place or entry.content.get("model") != model:
                found.append(f"Entry {place} of {model} says that it is entry {entry.content.get('n')} of {entry.content.get('model')}.")
            if entry.content.get("prev_sha256") != previous:
                found.append(f"Entry {place} of {model} does not follow the entry before it: one was removed or replaced.")
            copied = self._store.backend.get_bytes(_key(model, place))
            if copied != data:
                found.append(f"The store's copy of entry {place} of {model} is {'gone' if copied is None else 'different'}.")
            previous = entry.sha256
        extra = self._store.backend.get_bytes(_key(model, len(entries) + 1))
        if extra is not None:
            found.append(f"The store holds a later entry of {model} than the table: the table lost its end.")
        return found

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            if not self._made:
                self._make_table()
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise Unavailable(
                f"The ledger's database did not answer ({str(error.orig).strip()}). Start it or set LFM_LEDGER_URI."
            ) from error

    def _make_table(self) -> None:
        with self.locks.hold("ledger tables"):
            _TABLES.create_all(self._engine)
        self._made = True


def _key(model: str, n: int) -> str:
    return f"ledger/{model}/{n}.json"
