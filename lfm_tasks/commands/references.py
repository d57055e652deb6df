"""From what a person types to an address: a reference, or a unique start of a sha256, of what the store already holds or held."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lfm_tasks.artifacts.references import Reference, parse_reference
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import ReferenceRefused
from lfm_tasks.settings import settings

if TYPE_CHECKING:
    from lfm_tasks.tracking.index import LineageIndex

SHORTEST = 6
HELP = "sha256:… (a unique start will do), models:/NAME@ALIAS, models:/NAME/3, or starter://, hf://, s3://, file:// where it was imported"


def open_store() -> Store:
    return Store.open(settings().store)


def open_index() -> LineageIndex:
    """The lineage of the store, read once, with the artifacts that it holds and no record mentions."""
    from lfm_tasks.tracking.index import LineageIndex

    index = LineageIndex(open_store())
    index.refresh()
    index.graph.artifacts |= {sha256: kind for kind, sha256 in index.snapshot.store.artifacts()}
    return index


def find_artifact(text: str, store: Store) -> Artifact:
    """The artifact that ``text`` names; raises :class:`ReferenceRefused` where the store does not hold it."""
    if (start := _start(text)) is not None:
        return store.find(_only(text, [address for _, address in store.artifacts() if address.startswith(start)]))
    return store.find(_resolve(parse_reference(text, settings().prefixes), store))


def find_address(text: str, store: Store, known: list[str]) -> str:
    """Like :func:`find_artifact`, but ``known`` addresses need not be in the store any more: records remember what was collected."""
    if (start := _start(text)) is not None:
        return _only(text, [address for address in known if address.startswith(start)])
    return _resolve(parse_reference(text, settings().prefixes), store)


def _start(text: str) -> str | None:
    """The hex digits of a shortened address."""
    match = re.fullmatch(rf"(?:sha256:)?([0-9a-f]{{{SHORTEST},64}})", text)
    return match[1] if match else None


def _only(text: str, found: list[str]) -> str:
    matches = sorted(set(found))
    if len(matches) != 1:
        shown = ": " + ", ".join(address[:16] for address in matches[:5]) if matches else ""
        raise ReferenceRefused(
            f"{text} fits {len(matches)} addresses{shown}. Give {'more of it' if matches else 'one that the store knows'}."
        )
    return matches[0]


def _resolve(reference: Reference, store: Store) -> str:
    if reference.scheme == "sha256":
        return reference.name
    if reference.scheme == "models":
        from lfm_tasks.tracking.tracker import Tracker

        return Tracker.open(settings(), store).resolve(reference)[0]
    return _imported(reference, store)


def _imported(reference: Reference, store: Store) -> str:
    from lfm_tasks.runner.imports import imports
    from lfm_tasks.tracking.snapshot import imported_name

    wanted = reference.text if reference.scheme != "hf" else f"hf://{reference.name}@{reference.revision or 'main'}"
    found = {entry["artifact"]["sha256"] for entry in imports(store) if imported_name(entry["provenance"]) == wanted}
    if len(found) != 1:
        listed = ", ".join(f"sha256:{address[:16]}" for address in sorted(found))
        what = (
            f"was imported with different contents: {listed}. Give one of them" if found else "is not in the store: no step has imported it"
        )
        raise ReferenceRefused(f"{reference.text} {what}.")
    return found.pop()
