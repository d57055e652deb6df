r"""Where tokens that are known by their texts lie in what was said. Nothing is guessed: a place is taken where no other is possible.

A token that holds a part of a character has no text: APIs show a replacement character, an escape (``bytes:\xe2\x80``, ``<0xE2>``) or
nothing. Behind what was said may be what ended it, an end-of-sequence token or a stop text, neither of which it holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise, takewhile

NO_TEXT = re.compile(r"\ufffd|^bytes:|\\x[0-9a-fA-F]{2}|<0x[0-9a-fA-F]{2}>")

Span = tuple[int, int]


def spelled(tokens: Sequence[str], text: str) -> list[Span]:
    """Spans in ``text`` of the first tokens, as many as have a place.

    Tokens without a text, and those whose place is not certain, have together the span between their neighbours.
    """
    beginning = _beginning(tokens, text)
    if beginning and beginning[-1][1] == len(text):
        return beginning
    runs = _runs(_within(tokens, text))
    said = ["".join(run) if readable else "" for readable, run in runs]
    earliest, latest = _earliest(said, text), _latest(said, text)
    if earliest is None or latest is None or any(first > last for first, last in zip(earliest, latest, strict=True)):
        return beginning
    spans: list[Span] = []
    waiting = end = 0
    for (readable, run), first, last in zip(runs, earliest, latest, strict=True):
        if not readable or first < last:
            waiting += len(run)
            continue
        spans += [(end, first)] * waiting + _laid(run, first)
        waiting, end = 0, spans[-1][1]
    return spans


def _beginning(tokens: Sequence[str], text: str) -> list[Span]:
    """Of the first tokens, as far as they are what ``text`` begins with."""
    spans, end = [], 0
    for token in takewhile(_readable, tokens):
        if not text.startswith(token, end):
            break
        spans.append((end, end + len(token)))
        end += len(token)
    return spans


def _within(tokens: Sequence[str], text: str) -> list[str]:
    """Without the last tokens that are certainly behind ``text``: nothing that they begin with ends it."""
    kept = list(tokens)
    while kept and _readable(kept[-1]) and not any(text.endswith(kept[-1][:size]) for size in range(1, len(kept[-1]) + 1)):
        kept.pop()
    return kept


def _runs(tokens: Sequence[str]) -> list[tuple[bool, list[str]]]:
    """Tokens that can be read, and others, in turns. What comes after an empty one may be the text of both."""
    known = [_readable(token) and before != "" for before, token in zip(("-", *tokens), tokens, strict=False)]
    grouped = groupby(zip(known, tokens, strict=True), key=lambda one: one[0])
    return [(readable, [token for _, token in group]) for readable, group in grouped]


def _readable(token: str) -> bool:
    return bool(token) and not NO_TEXT.search(token)


def _earliest(said: Sequence[str], text: str, *, cut: bool = False) -> list[int] | None:
    """Where each run can begin at the earliest, the first and the last at the ends of ``text``; None where they are not all there.

    Empty ones, whose place is 0, stand for a character at least; the first for none where ``text`` may be ``cut`` before it.
    """
    found, end = [], 0
    for place, run in enumerate(said):
        least = end + (place > int(cut))
        at = len(text) - len(run) if place == len(said) - 1 else text.find(run, least)
        if run and (at < least or not text.startswith(run, at) or (not place and at)):
            return None
        found.append(at if run else 0)
        end = at + len(run) if run else end
    return found


def _latest(said: Sequence[str], text: str) -> list[int] | None:
    """As :func:`_earliest`. An answer that ends inside of a character may have been given without it."""
    found = _earliest([run[::-1] for run in reversed(said)], text[::-1], cut=True)
    return found and [len(text) - at - len(run) if run else 0 for at, run in zip(reversed(found), said, strict=True)]


def _laid(tokens: Sequence[str], start: int) -> list[Span]:
    """Spans of tokens end to end."""
    return list(pairwise(accumulate(map(len, tokens), initial=start)))
