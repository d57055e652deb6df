"""Revoked data sets and models: marks with who, when and why, in a hash-chained chain of the ledger. Nothing is ever erased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfm_tasks.errors import InvalidInput
from lfm_tasks.tracking.ledger import Entry, Ledger
from lfm_tasks.tracking.snapshot import REVOCATIONS
from lfm_tasks.tracking.taint import apply_mark


class Revocations:
    """Marks are entries with ``action`` "revoke"; a lifted mark is another entry, with "lift"."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def history(self) -> list[Entry]:
        """Every mark and every lifting, oldest first."""
        return self._ledger.entries(REVOCATIONS)

    def marks(self) -> dict[str, dict[str, Any]]:
        """{artifact sha256: the entry that revoked it} of the marks in force."""
        return _in_force(self.history())

    def revoke(self, sha256: str, kind: str, reason: str, who: Mapping[str, str]) -> Entry:
        """Mark an artifact. Raises :class:`InvalidInput` when it is marked already, or no reason is given."""
        return self._append("revoke", sha256, kind, reason, who)

    def lift(self, sha256: str, kind: str, reason: str, who: Mapping[str, str]) -> Entry:
        """Take a mark away by another entry. Raises :class:`InvalidInput` when there is none, or no reason is given."""
        return self._append("lift", sha256, kind, reason, who)

    def problems(self) -> list[str]:
        """What is wrong with the chain and its copies in the store; empty when all is well."""
        return self._ledger.problems(REVOCATIONS)

    def _append(self, action: str, sha256: str, kind: str, reason: str, who: Mapping[str, str]) -> Entry:
        if not reason.strip():
            raise InvalidInput("A mark needs a reason that others will read: give --reason TEXT.")
        with self._ledger.locks.hold("revocations"):
            history = self.history()
            for entry in history:
                if not self._ledger.has_copy(entry):
                    self._ledger.copy(entry)
            mark = _in_force(history).get(sha256)
            if action == "revoke" and mark is not None:
                raise InvalidInput(f"sha256:{sha256} is revoked already: {describe(mark)}.")
            if action == "lift" and mark is None:
                raise InvalidInput(f"sha256:{sha256} is not revoked, so there is no mark to lift. `lfm taint --list` shows the marks.")
            content = {"action": action, "sha256": sha256, "kind": kind, "why": reason.strip(), "who": dict(who)}
            entry = self._ledger.append(REVOCATIONS, content)
            self._ledger.copy(entry)
            return entry


def describe(mark: Mapping[str, Any]) -> str:
    """A mark in words."""
    by = ", ".join(mark["who"].values()) or "unknown"
    return f"{mark['kind']} sha256:{mark['sha256']}, which was revoked at {mark['time']} by {by} ({mark['why']})"


def _in_force(history: list[Entry]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in history:
        apply_mark(found, entry.content)
    return found
