"""In what two models differ: how they were made, from what, what was measured of them, and their weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import InvalidInput, ReferenceRefused
from lfm_tasks.settings import settings
from lfm_tasks.tracking.index import LineageIndex
from lfm_tasks.tracking.lineage import Graph

MODELS = ("model", "adapter")


def diff(
    store: Store, index: LineageIndex, first: str, second: str, *, weights: bool = True, downloads: Path | None = None
) -> dict[str, Any]:
    """What tells two models or adapters apart, as plain JSON.

    ``{"first", "second", "same", "steps", "data", "metrics", "weights"}``: ``steps`` pairs the makers of both, from the
    models backwards as far as they differ, and ``data`` the inputs that differ between them. ``weights`` False leaves the
    weights unread. ``downloads`` is where artifacts of a remote store go. Raises :class:`InvalidInput` for what is no model.
    """
    from lfm_tasks.tracking.measured import compare_measurements

    downloads = downloads or settings().home / "downloads"
    nodes = [index.node(address) for address in (first, second)]
    for node in nodes:
        if node["kind"] not in MODELS:
            raise InvalidInput(f"{node['short']} is a {node['kind'] or 'record'}; give two models or adapters.")
    graph, one, other = index.graph, nodes[0]["id"], nodes[1]["id"]
    pairs = list(paired_makers(graph, one, other))
    found: dict[str, Any] = {"first": _shown(nodes[0]), "second": _shown(nodes[1]), "same": one == other}
    found["steps"] = [_step(graph, *pair) for pair in pairs]
    found["data"] = [entry for pair in pairs for entry in _inputs(index, *pair)]
    found["metrics"] = compare_measurements(store, graph, one, other, downloads)
    found["weights"] = _weights(store, nodes, downloads) if weights else None
    return found


Pair = tuple[str, str | None, str | None]
"""Where on the way back from the models (``model``, ``model.dataset``, …), and the two records that stand there."""


def paired_makers(graph: Graph, first: str, second: str, place: str = "model") -> Iterator[Pair]:
    """The makers of two artifacts, then those of their inputs of the same name, until both sides are the same or nothing."""
    if first == second:
        return
    makers = graph.maker(first), graph.maker(second)
    if makers == (None, None):
        return
    yield place, *makers
    records = [graph.records[maker] if maker else None for maker in makers]
    if records[0] is None or records[1] is None or makers[0] == makers[1]:
        return
    for name in records[0]["inputs"].keys() & records[1]["inputs"].keys() if records[0]["step"] == records[1]["step"] else ():
        yield from paired_makers(graph, *(record["inputs"][name]["sha256"] for record in records), f"{place}.{name}")


def fields_that_differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``[{"field", "first", "second"}]`` over nested mappings, by dotted names; None where one side lacks the field."""
    flat = [dict(_flat(side, "")) for side in (first, second)]
    names = {**flat[0], **flat[1]}
    return [
        {"field": name, "first": flat[0].get(name), "second": flat[1].get(name)} for name in names if flat[0].get(name) != flat[1].get(name)
    ]


def _step(graph: Graph, place: str, first: str | None, second: str | None) -> dict[str, Any]:
    ours, theirs = ((graph.records[one] if one else None) for one in (first, second))
    sides = {"place": place, "first": _maker(first, ours), "second": _maker(second, theirs)}
    if ours is None or theirs is None:
        return sides | {"config": [], "code": None, "environment": []}
    same_code = ours["code"]["sha256"] == theirs["code"]["sha256"]
    return sides | {
        "config": fields_that_differ(ours["config"], theirs["config"]),
        "code": None if same_code else {"first": ours["code"], "second": theirs["code"]},
        "environment": environment_difference(ours["environment"], theirs["environment"]),
    }


def environment_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Packages, interpreter and device that differ, by :func:`fields_that_differ`."""
    return [entry for entry in fields_that_differ(first, second) if entry["field"] != "sha256"]


def _maker(address: str | None, record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    wanted = ("step", "method", "seed", "started", "mlflow", "airflow")
    return {"record": address, **{name: record.get(name) for name in wanted}, "git_commit": record["code"].get("git_commit")}


def _inputs(index: LineageIndex, place: str, first: str | None, second: str | None) -> Iterator[dict[str, Any]]:
    """What went into the two makers under one name and differs."""
    sides = [index.graph.records[one]["inputs"] if one else {} for one in (first, second)]
    for name in {**sides[0], **sides[1]}:
        given = [side[name]["sha256"] if name in side else None for side in sides]
        if given[0] != given[1]:
            yield {"place": f"{place}.{name}", "first": _brief(index, given[0]), "second": _brief(index, given[1])}


def _brief(index: LineageIndex, address: str | None) -> dict[str, Any] | None:
    return None if address is None else _shown(index.node(address))


def _shown(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: node[name] for name in ("id", "short", "kind", "label", "aliases", "revoked", "tainted", "metric")}


def _weights(store: Store, nodes: list[dict[str, Any]], downloads: Path) -> dict[str, Any]:
    """The distance of the weights, or ``{"not_compared": why}``."""
    kinds = [node["kind"] for node in nodes]
    if kinds[0] != kinds[1]:
        return {"not_compared": f"The first is a {kinds[0]} and the second a {kinds[1]}; merge the adapter into its base first."}
    from lfm_tasks.models.difference import weight_difference

    try:
        artifacts = [store.find(node["id"]) for node in nodes]
    except ReferenceRefused as error:
        return {"not_compared": f"{error} It was collected; its record says what it was."}
    return weight_difference(*(store.materialise(artifact, downloads) for artifact in artifacts))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
