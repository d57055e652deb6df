"""The answer in a text that a model wrote: where it stands, and what makes no difference to it. Pure functions."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable

AROUND = " \t:*`\"'.,;!?()[]{}"


def split_at_answer(text: str, marks: Iterable[str]) -> tuple[str, str] | None:
    """What comes before the last of the ``marks``, in any case, and the answer, on one line after it; None without a mark."""
    found = [
        (match.start(), match.start() + len(mark))
        for mark in marks
        for match in re.finditer(f"(?={re.escape(mark)})", text, flags=re.IGNORECASE)
    ]
    if not found:
        return None
    start, end = max(found)
    return text[:start], _first_line(text[end:])


def read_answer(text: str, marks: Iterable[str]) -> str:
    """The answer behind the last of the ``marks``; of a text without one its first line.

    A model that was not taught to reason answers at once, and goes on as it likes: it is not beaten for the form of its answer. Reasons
    that never come to a mark are no answer, and are wrong as such.
    """
    found = split_at_answer(text, marks)
    return _first_line(text) if found is None else found[1]


def normalise(answer: str) -> str:
    """Compatible Unicode forms, case, spaces and punctuation at the ends make no difference."""
    return " ".join(unicodedata.normalize("NFKC", answer).casefold().split()).strip(string.punctuation + " ")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip(AROUND)
