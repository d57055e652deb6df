"""Rows of several kinds (tasks), each kind a part of the loss with a share of its own."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from lfm_tasks.data.splits import Row
from lfm_tasks.errors import DataError


def with_parts(tables: dict[str, pa.Table], rows: list[Row], column: str, shares: Mapping[str, float]) -> dict[str, pa.Table]:
    """The tables of instructions with a column ``part``: the place of the row's part among the sorted names of ``shares``.

    Raises :class:`DataError` for a part without a share, and for one without training rows.
    """
    places = {name: place for place, name in enumerate(sorted(shares))}
    if unknown := sorted({row.values[column] for row in rows} - places.keys()):
        raise DataError(f"The column '{column}' names the part {unknown[0]!r}, which has no share. Shares: {', '.join(shares)}.")
    if absent := sorted(places.keys() - {row.values[column] for row in rows if row.split == "train"}):
        raise DataError(f"No training row is of the part {absent[0]!r}, which has a share of {shares[absent[0]]:g}. Take it out of parts.")
    return {
        name: table.append_column("part", pa.array([places[row.values[column]] for row in rows if row.split == name], pa.int32()))
        for name, table in tables.items()
    }
