"""What a row is called: the hash of what it says. Light to import."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from lfm_tasks.config import canonical_json


def content_hash(values: Iterable[str] | dict[str, str]) -> str:
    return hashlib.sha256(canonical_json(values if isinstance(values, dict) else list(values))).hexdigest()
