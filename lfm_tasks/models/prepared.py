"""The rows of a prepared data set, in the order of their sample ids."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lfm_tasks.errors import DataError


@dataclass(frozen=True)
class Rows:
    """``description`` is ``dataset.json``; ``columns`` holds the text columns and ``label``, ``prompt_tokens`` where present.
    Images have ``pixels`` there, and no ``input_ids``."""

    description: dict[str, Any]
    sample_id: list[str]
    input_ids: list[NDArray[np.int64]]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def task(self) -> str:
        return self.description["task"]

    @property
    def labels(self) -> list[str]:
        return self.description.get("labels") or []

    @property
    def completions(self) -> list[str]:
        return self.description.get("completions") or []

    def prompt_sha256(self) -> list[str]:
        """Hash of what each sample asks: its prompt, or its text or pixels where there is none."""
        asked = {"instruction": "prompt", "images": "pixels"}.get(self.task, "text")
        return [hashlib.sha256(one if isinstance(one, bytes) else one.encode()).hexdigest() for one in self.columns[asked]]

    def take(self, keep: list[int]) -> Rows:
        return Rows(
            self.description,
            [self.sample_id[i] for i in keep],
            [self.input_ids[i] for i in keep] if self.input_ids else [],
            {name: [values[i] for i in keep] for name, values in self.columns.items()},
        )


def read_rows(directory: Path, split: str, max_samples: int = 0) -> Rows:
    """The split's rows, or the first ``max_samples`` of them. Raises :class:`DataError` for a split without rows."""
    description = read_description(directory)
    path = directory / f"{split}.parquet"
    table = pq.read_table(path) if path.is_file() else None
    if table is None or table.num_rows == 0:
        raise DataError(
            f"The data set has no rows in its split '{split}'. Evaluate another split, or prepare the data with a larger share."
        )
    table = table.sort_by("sample_id")
    table = table.slice(0, max_samples or table.num_rows)
    columns = {name: table[name].to_pylist() for name in table.column_names if name not in ("sample_id", "input_ids")}
    tokens = table["input_ids"].to_pylist() if "input_ids" in table.column_names else []
    input_ids = [np.asarray(ids, dtype=np.int64) for ids in tokens]
    return Rows(description, table["sample_id"].to_pylist(), input_ids, columns)


def read_description(directory: Path) -> dict[str, Any]:
    path = directory / "dataset.json"
    if not path.is_file():
        raise DataError("The data set has no dataset.json: it is not a prepared one. Run the step 'prepare' on it first.")
    return json.loads(path.read_text())
