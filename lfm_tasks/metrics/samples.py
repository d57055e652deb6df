"""The per-sample table of an evaluation: what the evaluate step writes and the gate reads, and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lfm_tasks.metrics.bootstrap import Estimate, estimate
from lfm_tasks.metrics.catalogue import build_metric, metric_names
from lfm_tasks.metrics.metric import Metric, Samples
from lfm_tasks.seeds import derive_seed

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("sample_id", pa.string()),
        ("prompt_sha256", pa.string()),
        ("target", pa.string()),
        ("prediction", pa.string()),
        ("text", pa.string()),
        ("correct", pa.int8()),
        ("confidence", pa.float64()),
        ("nll", pa.float64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
        ("probabilities", pa.list_(pa.float64())),
    ]
)
"""``task`` names the group (``choice``, ``general``, …); ``prediction`` was read in ``text`` where it is not all that was written;
``nll`` is in nats over ``tokens`` tokens of ``bytes`` bytes; ``probabilities`` follow the labels' order. A column that a group does not
have is null."""


def sample_table(group: str, columns: Mapping[str, Any]) -> pa.Table:
    """A table of one group; columns that are not given are null."""
    n = len(columns["sample_id"])
    arrays = [pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(n, field.type) for field in SCHEMA]
    arrays[0] = pa.array([group] * n, pa.string())
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write_samples(table: pa.Table, path: Path) -> None:
    """Equal tables give equal bytes."""
    pq.write_table(table, path, compression="zstd", store_schema=False)


def read_samples(path: Path) -> pa.Table:
    """The columns of :data:`SCHEMA`; one that came into it after the report was written is not there."""
    return pq.ParquetFile(path).read(columns=SCHEMA.names)


def of_group(table: pa.Table, group: str) -> pa.Table:
    return table.filter(pa.compute.equal(table["task"], group))


def metric_columns(table: pa.Table, labels: Sequence[str]) -> Samples:
    """The columns of one group as numpy arrays; targets and predictions that are labels become their index, -1 otherwise."""
    codes = {label: index for index, label in enumerate(labels)}
    columns: dict[str, np.ndarray] = {}
    for name in ("correct", "confidence", "nll", "tokens", "bytes"):
        if table[name].null_count == 0:
            columns[name] = table[name].to_numpy().astype(np.float64)
    for name in ("target", "prediction"):
        columns[name] = np.array([codes.get(value, -1) for value in table[name].to_pylist()], dtype=np.int64)
    if table["probabilities"].null_count == 0:
        columns["probabilities"] = np.array(table["probabilities"].to_pylist(), dtype=np.float64)
    return columns


def measure(
    table: pa.Table, group: str, labels: Sequence[str], *, bins: int, level: float, resamples: int, seed: int
) -> dict[str, tuple[Metric, Estimate]]:
    """Every metric of one group's table, with its interval. The seed of each is keyed by the metric's name."""
    samples, found = metric_columns(table, labels), {}
    for name in metric_names(group):
        metric = build_metric(name, classes=len(labels), bins=bins)
        key = derive_seed(seed, "bootstrap", name)
        found[name] = metric, estimate(metric, samples, level=level, resamples=resamples, seed=key)
    return found
