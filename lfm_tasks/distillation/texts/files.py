"""Rows on disk: one JSON object a line, and what was done to make them beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_rows(rows: Iterable[dict[str, Any]], directory: Path, name: str, described: dict[str, Any]) -> None:
    """``rows.jsonl``, in order, and ``described`` as the file ``name``."""
    directory.mkdir(parents=True)
    with (directory / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    (directory / name).write_text(json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """What :func:`write_rows` wrote."""
    with (directory / "rows.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
