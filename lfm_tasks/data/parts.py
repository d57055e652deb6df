"""Rows of several kinds (tasks), each kind with its share of the loss: the weights by which a mean over all tokens becomes that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lfm_tasks.data.splits import Row
from lfm_tasks.errors import DataError


def part_weights(parts: Sequence[str], targets: NDArray[np.int64], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """The weight of each row's tokens, w = s_p · N / N_p for a row of part p, with ``targets`` the tokens of each row that are learnt.

    Over all rows Σ w · loss / N = Σ_p s_p · (mean loss of the tokens of p): L = α · a + (1 − α) · b of arXiv 2305.02301 for two
    parts. Shares of parts that have no row go to the others, in proportion.
    """
    counts = {part: int(targets[[one == part for one in parts]].sum()) for part in set(parts)}
    there = sum(shares[part] for part in counts)
    return np.array([shares[part] / there * targets.sum() / counts[part] for part in parts], dtype=np.float64)


def with_weights(tables: dict[str, pa.Table], rows: list[Row], column: str, shares: Mapping[str, float]) -> dict[str, pa.Table]:
    """The tables of instructions with a column ``weight``. Raises :class:`DataError` for a part without a share or without rows."""
    named = {row.values[column] for row in rows}
    if unknown := sorted(named - shares.keys()):
        raise DataError(f"The column '{column}' names the part {unknown[0]!r}, which has no share. Shares: {', '.join(shares)}.")
    if absent := sorted(shares.keys() - {row.values[column] for row in rows if row.split == "train"}):
        raise DataError(f"No training row is of the part {absent[0]!r}, which has a share of {shares[absent[0]]:g}. Take it out of parts.")
    weighted = {}
    for name, table in tables.items():
        parts = [row.values[column] for row in rows if row.split == name]
        lengths = np.array([len(ids) for ids in table["input_ids"].to_pylist()], dtype=np.int64)
        targets = lengths - table["prompt_tokens"].to_numpy()
        weighted[name] = table.append_column("weight", pa.array(part_weights(parts, targets, shares), pa.float64()))
    return weighted
