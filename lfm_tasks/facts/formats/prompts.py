"""From a prompt that has its subject in it to one with a place for it."""

from __future__ import annotations

import re

from lfm_tasks.errors import DataError
from lfm_tasks.facts.reading import mentions


def with_place(text: str, subject: str) -> str:
    """``text`` with ``{}`` for the subject. Raises :class:`DataError` unless it is there once."""
    if (count := mentions(subject, text) or text.count(subject)) != 1:
        raise DataError(f"the subject {subject!r} is {count} times in {text!r}; it must be there once. Leave the row out or reword it.")
    if "{}" in text:
        raise DataError(f"the prompt {text!r} holds {{}} beside its subject {subject!r}. Reword it.")
    bounded = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text)
    start = bounded.start() if bounded else text.index(subject)
    return f"{text[:start]}{{}}{text[start + len(subject) :]}"
