"""What a store says of lineage, in memory: records, finished alias moves, revocations, imports. Read incrementally. Light to import."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from lfm_tasks.artifacts.parallel import in_order
from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import LfmError
from lfm_tasks.tracking.lineage import Graph
from lfm_tasks.tracking.taint import apply_mark, tainted

REVOCATIONS = "@revocations"
"""Name of the chain of revocations: no registered model can have it."""
READERS = 8


class Snapshot:
    """The state of ``store`` as of the last :meth:`refresh`. Neither MLflow nor a database is asked."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.graph = Graph()
        self.moves: dict[str, list[dict[str, Any]]] = {}
        """The ledger's entries by model, as far as their moves are finished."""
        self.aliases: dict[str, dict[str, tuple[str, str]]] = {}
        """{model: {alias: (version, artifact sha256)}} as the moves leave them."""
        self.in_use: dict[str, list[str]] = {}
        """{artifact sha256: the aliases that name it, as MODEL@ALIAS}."""
        self.labels: dict[str, list[str]] = {}
        """What people call an artifact: the registered versions that it is, then the reference it was imported from."""
        self.revoked: dict[str, dict[str, Any]] = {}
        """The marks in force: {sha256: the entry that set it}."""
        self.tainted: set[str] = set()
        """What descends from revoked artifacts."""
        self.imports: dict[str, dict[str, Any]] = {}
        """{sha256: where an imported artifact came from}."""
        self.collected: dict[str, str] = {}
        """{sha256: the record of the collection that deleted it}."""
        self.damaged: dict[str, str] = {}
        """{key: why it could not be read}."""
        self._read: set[str] = set()

    @classmethod
    def of(cls, store: Store) -> Snapshot:
        snapshot = cls(store)
        snapshot.refresh()
        return snapshot

    def refresh(self) -> list[str]:
        """Read what came into the store since the last time; return the addresses of new records, oldest first."""
        records = sorted(self._fresh("records/"), key=lambda item: item[1]["started"])
        entries = sorted((entry for _, entry in self._fresh("ledger/")), key=lambda entry: (entry["model"], entry["n"]))
        imports = [entry for _, entry in self._fresh("imports/")]
        fresh = [key.removeprefix("records/").removesuffix(".json") for key, _ in records]
        for address, (_, record) in zip(fresh, records, strict=True):
            self.graph.add(address, record)
            if record["step"] == "collect":
                self.collected |= {one["sha256"]: address for one in record["summary"].get("deleted", ())}
        for entry in entries:
            self._enter(entry)
        for entry in imports:
            self.graph.artifacts.setdefault(entry["artifact"]["sha256"], entry["artifact"]["kind"])
            self.imports[entry["artifact"]["sha256"]] = entry["provenance"]
        if records or entries or imports:
            self.aliases = {model: {e["alias"]: (e["to"], e["artifact_sha256"]) for e in moves} for model, moves in self.moves.items()}
            self.in_use, self.labels = self._in_use(), self._labels()
            self.tainted = tainted(self.graph, self.revoked)
        return fresh

    def _fresh(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        keys = [key for key in self.store.backend.list(prefix) if key not in self._read]
        remote = self.store.backend.local_path(prefix.rstrip("/")) is None
        contents = in_order((partial(self._get, key) for key in keys), READERS) if remote else map(self._get, keys)
        for key, found in zip(keys, contents, strict=True):
            if found is not None:
                self._read.add(key)
                yield key, found

    def _get(self, key: str) -> dict[str, Any] | None:
        """None for what is damaged: the others can be shown, and :attr:`damaged` says what is not."""
        folder, _, name = key.partition("/")
        try:
            if folder == "records":
                return self.store.get_record(name.removesuffix(".json"))
            found = json.loads(self.store.backend.get_bytes(key) or b"null")
        except (LfmError, ValueError) as error:
            self.damaged[key] = str(error)
            return None
        needed = {"model", "n"} if folder == "ledger" else {"artifact", "provenance"}
        if not isinstance(found, dict) or not needed <= found.keys():
            self.damaged[key] = f"{key} lacks {', '.join(sorted(needed))}: it was changed after it was written."
            return None
        return found

    def _enter(self, entry: dict[str, Any]) -> None:
        if entry["model"] != REVOCATIONS:
            self.moves.setdefault(entry["model"], []).append(entry)
        else:
            apply_mark(self.revoked, entry)

    def _in_use(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for model, aliases in sorted(self.aliases.items()):
            for alias, (_, sha256) in sorted(aliases.items()):
                found.setdefault(sha256, []).append(f"{model}@{alias}")
        return found

    def _labels(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for model, entries in self.moves.items():
            for version, sha256 in {(entry["to"], entry["artifact_sha256"]): None for entry in entries}:
                held = sorted(alias for alias, (named, _) in self.aliases[model].items() if named == version)
                text = f"{model} version {version}" + (f" ({', '.join(held)})" if held else "")
                names = found.setdefault(sha256, [])
                names.insert(0 if held else len(names), text)
        for sha256, provenance in self.imports.items():
            found.setdefault(sha256, []).append(imported_name(provenance))
        return found


def imported_name(provenance: dict[str, Any]) -> str:
    """The reference under which something was imported."""
    if provenance["scheme"] == "starter":
        return f"starter://{provenance['name']}"
    if provenance["scheme"] == "hf":
        return f"hf://{provenance['name']}@{provenance['revision']}"
    return provenance["reference"]
