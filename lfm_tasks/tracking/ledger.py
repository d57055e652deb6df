"""The append-only, hash-chained history of alias moves: a table, and a copy of every entry in the store.

The table is the compare-and-set: its primary key lets one entry take a place. An entry is written *before* MLflow's alias
is moved, so an interrupted move is seen and finished by whoever comes next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.artifacts.store import Store
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import Conflict, IntegrityError, Unavailable
from lfm_tasks.tracking import chain
from lfm_tasks.tracking.chain import FIRST, Row
from lfm_tasks.tracking.locks import Locks

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
        """The moves of ``model``, oldest first; raises :class:`IntegrityError` when one was edited: nothing may rest on it."""
        rows = self._rows(model)
        for row in rows:
            if not row.is_sound:
                raise IntegrityError(
                    f"Entry {row.n} of {model} in the ledger was edited. `lfm ledger {model} --verify` names what is wrong."
                )
        return [Entry(row.content, row.sha256) for row in rows]

    def models(self) -> list[str]:
        """Names of the models that have moves."""
        with self._transaction() as connection:
            return sorted(name for name in connection.scalars(sa.select(MOVES.c.model).distinct()) if not name.startswith("@"))

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

    def problems(self, model: str, anchors: Mapping[int, str] | None = None) -> list[str]:
        """What is wrong with the chain and its copies in the store, see :func:`lfm_tasks.tracking.chain.problems`."""
        rows = {row.n: row for row in self._rows(model)}
        prefix = f"ledger/{model}/"
        keys = {int(name): key for key in self._store.backend.list(prefix) if (name := key[len(prefix) : -len(".json")]).isdecimal()}
        copies = {n: data for n, key in keys.items() if (data := self._store.backend.get_bytes(key)) is not None}
        return chain.problems(model, rows, copies, anchors)

    def _rows(self, model: str) -> list[Row]:
        columns = (MOVES.c.n, MOVES.c.entry, MOVES.c.sha256)
        with self._transaction() as connection:
            return [Row(*row) for row in connection.execute(sa.select(*columns).where(MOVES.c.model == model).order_by(MOVES.c.n))]

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


def heads(entries: list[Entry], as_of: datetime | None = None) -> dict[str, Entry]:
    """The last move of each alias: of all ``entries``, or of those until ``as_of``."""
    until = [entry for entry in entries if as_of is None or datetime.fromisoformat(entry.content["time"]) <= as_of]
    return {entry.content["alias"]: entry for entry in until}


def _key(model: str, n: int) -> str:
    return f"ledger/{model}/{n}.json"
