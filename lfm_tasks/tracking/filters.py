"""Filters in MLflow's search language, safe for any value. Light to import."""

from __future__ import annotations

import re


def equals(tag: str, value: str) -> str:
    """A filter for runs whose ``tag`` may equal ``value``; the caller compares exactly.

    The language has no escapes, so every character that could end or bend the text becomes a wildcard.
    """
    plain = re.sub(r"[^\w .:/@+-]", "_", value, flags=re.ASCII)
    return f"tags.`{tag}` = '{value}'" if plain == value else f"tags.`{tag}` LIKE '{plain}'"


def one_of(tag: str, values: list[str]) -> str:
    """A filter for logged models whose ``tag`` is one of ``values``: hex digits only."""
    assert all(re.fullmatch(r"[0-9a-f]+", value) for value in values)
    return f"tags.`{tag}` IN ({', '.join(repr(value) for value in values)})"
