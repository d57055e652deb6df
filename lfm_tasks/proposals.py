"""What a form proposes for a model or a data set: the starters, and what was used or registered here. Light to import.

The operators note it in ``<home>/proposals.json``, so that parsing a DAG file asks no server. It is as fresh as the last parse
of the DAG file, and knows the work of the machines that share the home. Anything else may be typed in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from lfm_tasks.settings import Settings

FILE = "proposals.json"
KEPT = 30
What = Literal["models", "data", "names"]
STARTERS: dict[What, tuple[str, ...]] = {
    "models": ("starter://smollm2-135m-instruct", "starter://minilm-l6"),
    "data": ("starter://bbc-news", "starter://movie-reviews", "starter://tweets", "starter://sarcasm", "starter://fashion-mnist"),
    "names": (),
}


def proposals(settings: Settings, what: What) -> list[str]:
    """Starters first, then what is known here by name: one order, so that a DAG's form changes only when something new comes."""
    return [*STARTERS[what], *sorted(set(_read(settings.home / FILE).get(what, ())) - set(STARTERS[what]))]


def remember(settings: Settings, what: What, references: Iterable[str]) -> None:
    """Note ``references``; the :data:`KEPT` newest are kept. Two writers at once may lose a proposal, never more."""
    path = settings.home / FILE
    known = _read(path)
    fresh = [one for one in references if one not in STARTERS[what]]
    kept = [one for one in known.get(what, ()) if one not in fresh]
    if fresh and [*kept, *fresh] != known.get(what):
        known[what] = [*kept, *fresh][-KEPT:]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{FILE}-{os.getpid()}")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(path)


def _read(path: Path) -> dict[str, list[str]]:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {}
