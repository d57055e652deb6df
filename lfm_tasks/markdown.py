"""Text in Markdown that shows as what it is."""

from __future__ import annotations

import html
import re


def cell(text: str) -> str:
    """``text`` of our own as one cell of a table, still readable as it stands."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def escape(text: str) -> str:
    """Anybody's ``text`` as one line: no HTML, no links, no pictures, no new cell."""
    safe = re.sub(r"([\\`*_{}\[\]()#+!|~:-])", r"\\\1", html.escape(text, quote=False))
    return re.sub(r"\s*[\r\n]+\s*", " ⏎ ", safe)
