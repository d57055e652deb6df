"""Two evaluation reports, read and found to be about the same samples, asked in the same way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lfm_tasks.errors import DataError
from lfm_tasks.metrics.samples import read_samples
from lfm_tasks.step import Input

KEYS = ("task", "sample_id", "prompt_sha256", "target")


@dataclass(frozen=True)
class Report:
    """``described`` is ``metrics.json``."""

    described: dict[str, Any]
    samples: pa.Table
    sha256: str

    @property
    def model_sha256(self) -> str:
        return self.described["model_sha256"]


def read_report(source: Input) -> Report:
    if not ((source.path / "metrics.json").is_file() and (source.path / "samples.parquet").is_file()):
        raise DataError(
            f"{source.reference} is no evaluation report: it lacks metrics.json or samples.parquet. Give the output of evaluate."
        )
    return Report(json.loads((source.path / "metrics.json").read_text()), read_samples(source.path / "samples.parquet"), source.sha256)


def check_comparable(challenger: Report, champion: Report) -> None:
    """Raise :class:`DataError` unless both models answered the same questions: same data, same settings, same samples."""
    again = "Evaluate both models on the same data set with the same options."
    for name, title in (("dataset_sha256", "data set"), ("general_sha256", "general text"), ("labels", "classes"), ("settings", "options")):
        ours, theirs = challenger.described[name], champion.described[name]
        if ours != theirs:
            raise DataError(f"The reports have different {title}: challenger {ours}, champion {theirs}. {again}")
    for name in KEYS:
        if challenger.samples[name] != champion.samples[name]:
            where = _first_difference(challenger.samples[name].to_pylist(), champion.samples[name].to_pylist())
            raise DataError(f"The reports are not about the same samples: their column '{name}' differs {where}. {again}")


def _first_difference(ours: list[Any], theirs: list[Any]) -> str:
    if len(ours) != len(theirs):
        return f"in length ({len(ours):,} and {len(theirs):,})"
    row = next(index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    return f"in row {row}: {ours[row]!r} and {theirs[row]!r}"
