"""What was measured of two models: every metric with its interval, and their paired difference where the samples are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lfm_tasks.artifacts.store import Store
from lfm_tasks.metrics.bootstrap import paired_bootstrap, percentile_interval
from lfm_tasks.metrics.catalogue import build_metric
from lfm_tasks.metrics.samples import metric_columns, of_group, read_samples
from lfm_tasks.seeds import derive_seed
from lfm_tasks.tracking.lineage import Graph

LEVEL, RESAMPLES = 0.95, 2000
ASKED = ("task", "sample_id", "prompt_sha256", "target")
SHOWN = ("value", "low", "high", "n")


@dataclass(frozen=True)
class Report:
    """One evaluation of a model. ``described`` is its ``metrics.json``."""

    record: str
    sha256: str
    described: dict[str, Any]

    @property
    def asked(self) -> tuple[str, str | None, str]:
        """On which data, and with which settings."""
        settings = json.dumps([self.described["settings"], self.described["labels"]], sort_keys=True)
        return self.described["dataset_sha256"], self.described.get("general_sha256"), settings


def compare_measurements(store: Store, graph: Graph, first: str, second: str, downloads: Path) -> list[dict[str, Any]]:
    """One entry per metric and data set: ``{"name", "dataset", "first", "second", "difference", "low", "high", …}``.

    The difference is second minus first on the metric's scale (a log ratio for perplexity), with the paired bootstrap's
    95 % interval; None where only one model was measured on these samples in this way.
    """
    ours, theirs = ({report.asked: report for report in _reports(store, graph, model)} for model in (first, second))
    found: list[dict[str, Any]] = []
    for asked in ours | theirs:
        pair = (ours.get(asked), theirs.get(asked))
        found += _entries(store, *pair, downloads)
    return found


def _reports(store: Store, graph: Graph, model: str) -> Iterator[Report]:
    """The evaluations of ``model`` whose reports are in the store, oldest first."""
    for address in reversed(graph.neighbours(model, "descendants")):
        record = graph.records[address]
        made = record["outputs"].get("report") if record["step"] == "evaluate" else None
        if made is None or record["inputs"]["model"]["sha256"] != model:
            continue
        data = store.backend.get_bytes(f"artifacts/report/{made['sha256']}/metrics.json")
        if data is not None:
            yield Report(address, made["sha256"], json.loads(data))


def _entries(store: Store, first: Report | None, second: Report | None, downloads: Path) -> Iterator[dict[str, Any]]:
    report = first or second
    assert report is not None
    pairs = _Pairs(store, first, second, downloads) if first and second else None
    for name in {**(first.described["metrics"] if first else {}), **(second.described["metrics"] if second else {})}:
        values = [each.described["metrics"].get(name) if each else None for each in (first, second)]
        about = next(value for value in values if value)
        shown = [value and {key: value[key] for key in SHOWN} for value in values]
        entry = {"name": name, "dataset": report.described["dataset_sha256"], "first": shown[0], "second": shown[1]}
        entry |= {"unit": about["unit"], "higher_is_better": about["higher_is_better"]}
        difference = pairs.difference(name) if pairs and all(values) else None
        yield entry | (difference or {"difference": None, "low": None, "high": None, "scale": None})


class _Pairs:
    """The samples of two reports, side by side."""

    def __init__(self, store: Store, first: Report, second: Report, downloads: Path) -> None:
        self._labels = first.described["labels"]
        self._bins = first.described["settings"]["calibration_bins"]
        self._tables = [_samples(store, report, downloads) for report in (first, second)]

    def difference(self, name: str) -> dict[str, Any] | None:
        group = name.partition("/")[0]
        tables = [of_group(table, group) for table in self._tables]
        if any(tables[0][column] != tables[1][column] for column in ASKED):
            return None
        metric = build_metric(name, classes=len(self._labels), bins=self._bins)
        first, second = (metric.features(metric_columns(table, self._labels)) for table in tables)
        values = [metric.statistic(features.sum(axis=0)) for features in (second, first)]
        draws = paired_bootstrap(second, first, metric.statistic, RESAMPLES, derive_seed(0, "difference", name))
        low, high = percentile_interval(metric.compare(*draws), LEVEL)
        return {"difference": float(metric.compare(*values)), "low": low, "high": high, "scale": metric.scale}


def _samples(store: Store, report: Report, downloads: Path) -> pa.Table:
    return read_samples(store.materialise(store.find(report.sha256), downloads) / "samples.parquet")
