"""From what a person types or a link says to addresses in the index. Nothing but the index is asked."""

from __future__ import annotations

from lfm_tasks.errors import ReferenceRefused, unknown_name
from lfm_tasks.tracking.index import LineageIndex


def find(index: LineageIndex, text: str) -> str:
    """The address that ``text`` names: ``models:/…``, the name of something imported, or the start of a hash.

    Raises :class:`ReferenceRefused` where it names nothing, or more than one thing.
    """
    text = text.strip()
    if text.startswith("models:/"):
        return _registered(index, text)
    for sha256, labels in index.snapshot.labels.items():
        if text in labels:
            return sha256
    if not text or any(character not in "0123456789abcdef" for character in text.removeprefix("sha256:")):
        raise ReferenceRefused(
            f"{text!r} names nothing in this store. Give sha256:… (its first digits will do), models:/NAME@ALIAS, models:/NAME/VERSION, "
            "or the reference that something was imported from."
        )
    return index.find(text)


def _registered(index: LineageIndex, text: str) -> str:
    name = text.removeprefix("models:/").partition("@")[0].partition("/")[0]
    moves = index.snapshot.moves.get(name)
    if moves is None:
        raise ReferenceRefused(unknown_name("registered model", name, index.snapshot.moves))
    aliases = {f"models:/{name}@{alias}": sha256 for alias, (_, sha256) in index.snapshot.aliases[name].items()}
    known = {f"models:/{name}/{move['to']}": move["artifact_sha256"] for move in moves} | aliases
    if text not in known:
        raise ReferenceRefused(unknown_name("reference", text, known))
    return known[text]
