"""The gate's decision as others read it."""

from __future__ import annotations

import json
from typing import Any

from lfm_tasks.errors import InvalidInput
from lfm_tasks.step import Input


def read_decision(decision: Input) -> dict[str, Any]:
    """The gate's decision, checked for the parts that a promotion rests on."""
    path = decision.path / "decision.json"
    if not path.is_file():
        raise InvalidInput(f"{decision.reference} holds no decision.json. Give the output 'decision' of a gate step.")
    found = json.loads(path.read_text())
    missing = {"outcome", "reasons", "challenger", "champion"} - found.keys()
    if missing or found["outcome"] not in ("promote", "reject", "ask"):
        raise InvalidInput(f"decision.json of {decision.reference} is no decision of a gate step (format 1). Run the gate again.")
    return found
