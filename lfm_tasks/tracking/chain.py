"""What is wrong with a hash-chained history. Pure: the table's rows, the store's copies and what records remember in, sentences out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.config import canonical_json

FIRST = "0" * 64


@dataclass(frozen=True)
class Row:
    """One row of the table as it stands there, whatever happened to it."""

    n: int
    text: str
    sha256: str

    @property
    def content(self) -> dict[str, Any]:
        """What the row says; empty where it is no JSON object."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def is_sound(self) -> bool:
        return sha256_bytes(canonical_json(self.content)) == self.sha256


def problems(model: str, rows: Mapping[int, Row], copies: Mapping[int, bytes], anchors: Mapping[int, str] | None = None) -> list[str]:
    """Every entry that was edited, removed or reordered, by name; empty when all is well.

    ``copies`` are the store's copies by place; ``anchors`` are hashes of entries that records of promotions remember, which
    also show a history that was rewritten as a whole.
    """
    found: list[str] = []
    for n in range(1, max((*rows, *copies, *(anchors or {})), default=0) + 1):
        what = f"Entry {n} of {model}"
        if n not in rows:
            found.append(
                f"{what} was removed from the table" + (_said(copies[n]) if n in copies else "; the store has no copy of it") + "."
            )
            continue
        found += _of_row(what, model, rows[n], rows.get(n - 1))
        found += _of_copy(model, rows[n], copies.get(n))
        if anchors and n in anchors and anchors[n] != rows[n].sha256:
            found.append(f"{what} is not the one that the record of its promotion remembers: the history was rewritten.")
    return found


def _of_row(what: str, model: str, row: Row, before: Row | None) -> Iterator[str]:
    content = row.content
    if not row.is_sound:
        yield f"{what} does not hash to its sha256 {row.sha256[:12]}: it was edited."
    elif (content.get("n"), content.get("model")) != (row.n, model):
        yield f"{what} was written as entry {content.get('n')} of {content.get('model')}: entries were reordered."
    elif content.get("prev_sha256") != (FIRST if row.n == 1 else before.sha256 if before else content.get("prev_sha256")):
        yield f"{what} does not follow entry {row.n - 1} as it stands there: one of them was replaced."


def _of_copy(model: str, row: Row, copy: bytes | None) -> Iterator[str]:
    if copy != canonical_json(row.content):
        yield f"The store's copy of entry {row.n} of {model} is {'gone' if copy is None else 'different'}."


def _said(copy: bytes) -> str:
    """What the store's copy of a removed entry says."""
    content = Row(0, copy.decode(errors="replace"), "").content
    return f"; the store's copy says: {content['why']}" if content.get("why") else "; the store has a copy of it"
