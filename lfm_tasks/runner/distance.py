"""How far a rebuilt artifact is from the recorded one: weights by tensor, tables and JSON by number, other files not at all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.store import Artifact

FOR_THE_EYE = (".md", ".png", ".svg", ".html")
"""Pictures and pages say in another form what tables hold; that their bytes differ is listed and not weighed."""
VERSIONS = ("transformers_version", "peft_version")
CLOCKS = re.compile(r"second|memory")
"""Metrics of the machine, which no replay repeats."""


def artifact_distance(recorded: Path, rebuilt: Path, one: Artifact, other: Artifact) -> dict[str, Any]:
    """``{"difference": largest relative difference (inf: not comparable), "where", "files": names whose bytes differ}``."""
    entries = [{entry.path: entry.sha256 for entry in artifact.manifest.files} for artifact in (one, other)]
    names = [name for name in sorted(entries[0].keys() | entries[1].keys()) if entries[0].get(name) != entries[1].get(name)]
    largest = max(_distances(recorded, rebuilt, names), key=lambda pair: pair[0], default=(0.0, ""))
    return {"difference": largest[0], "where": largest[1], "files": names}


def number_distance(first: Any, second: Any) -> float:
    """Largest relative difference of the numbers in two JSON values; inf where anything else differs."""
    if isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        return max((number_distance(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return max((number_distance(a, b) for a, b in zip(first, second, strict=True)), default=0.0)
    if isinstance(first, float) and isinstance(second, int | float) and not isinstance(second, bool):
        return relative(first, second)
    return 0.0 if first == second else math.inf


def relative(first: float, second: float) -> float:
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    largest = max(abs(first), abs(second))
    return abs(first - second) / largest if math.isfinite(largest) else math.inf


def metrics_distance(recorded: Mapping[str, float], rebuilt: Mapping[str, float]) -> tuple[float, str]:
    """The largest relative difference of a metric, and its name; clocks aside."""
    names = [name for name in recorded if not CLOCKS.search(name)]
    found = [(relative(float(recorded[name]), float(rebuilt[name])) if name in rebuilt else math.inf, name) for name in names]
    return max(found, default=(0.0, ""))


def _distances(recorded: Path, rebuilt: Path, names: list[str]) -> Iterator[tuple[float, str]]:
    if any(name.endswith(".safetensors") for name in names):
        yield from _weights(recorded, rebuilt)
    for name in names:
        if not name.endswith((".safetensors", *FOR_THE_EYE)):
            yield _file_distance(recorded / name, rebuilt / name), name


def _file_distance(first: Path, second: Path) -> float:
    if not (first.is_file() and second.is_file()):
        return math.inf
    if first.suffix == ".parquet":
        return _tables(first, second)
    if first.suffix != ".json":
        return math.inf
    contents = [json.loads(path.read_text()) for path in (first, second)]
    return number_distance(*(_without_versions(content) for content in contents))


def _without_versions(content: Any) -> Any:
    return {key: value for key, value in content.items() if key not in VERSIONS} if isinstance(content, dict) else content


def _weights(recorded: Path, rebuilt: Path) -> Iterator[tuple[float, str]]:
    from lfm_tasks.models.difference import weight_difference

    found = weight_difference(recorded, rebuilt)
    for entry in found["tensors"]:
        yield (math.inf if entry["relative"] is None else entry["relative"]), entry["name"]
    for name in (*(entry["name"] for entry in found["reshaped"]), *found["only_in_first"], *found["only_in_second"]):
        yield math.inf, name


def _tables(first: Path, second: Path) -> float:
    import pyarrow.parquet as pq

    ours, theirs = pq.read_table(first), pq.read_table(second)
    if ours.column_names != theirs.column_names or ours.num_rows != theirs.num_rows:
        return math.inf
    return max((number_distance(ours[name].to_pylist(), theirs[name].to_pylist()) for name in ours.column_names), default=0.0)
