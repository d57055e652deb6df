"""Lineage asked page by page, for the UI and the command line: a store's :class:`Snapshot` under a lock, and plain JSON out of it.

Light to import.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

from lfm_tasks.artifacts.manifest import MANIFEST
from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import settings
from lfm_tasks.tracking.cost import Prices, total
from lfm_tasks.tracking.lineage import SHORT, Direction, Graph, headline
from lfm_tasks.tracking.snapshot import Snapshot

PAGE = 300
DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "both": ("ancestors", "descendants"),
    "ancestors": ("ancestors",),
    "descendants": ("descendants",),
}


class LineageIndex:
    """Safe to use from many threads. What it answers is plain JSON, as of the last :meth:`refresh`."""

    def __init__(self, store: Store, prices: Prices | None = None) -> None:
        self.snapshot = Snapshot(store)
        self._prices = prices or Prices.of(settings())
        self._lock = threading.RLock()
        self._adjacent: dict[tuple[str, Direction], list[str]] = {}
        self._measured: dict[str, list[str]] = {}
        """Records that evaluated a model, by the model, oldest first."""
        self._words: dict[str, str] = {}
        self._runs: dict[tuple[str, str], list[str]] = {}

    @property
    def graph(self) -> Graph:
        return self.snapshot.graph

    def refresh(self) -> int:
        """Read what came into the store since the last time; return how many records that were."""
        with self._lock:
            fresh = self.snapshot.refresh()
            for address in fresh:
                record = self.graph.records[address]
                if airflow := record.get("airflow"):
                    self._runs.setdefault((airflow["dag_id"], airflow["run_id"]), []).append(address)
                if record["step"] == "evaluate" and self.graph.worker(address) == address:
                    self._measured.setdefault(record["inputs"]["model"]["sha256"], []).append(address)
                for edge in (*self.graph.into.get(address, ()), *self.graph.out_of.get(address, ())):
                    for node, direction in product((edge.source, edge.target), DIRECTIONS["both"]):
                        self._adjacent.pop((node, direction), None)
            return len(fresh)

    def neighbourhood(
        self, address: str | Sequence[str], direction: Literal["both", "ancestors", "descendants"] = "both", limit: int = PAGE
    ) -> dict[str, Any]:
        """The part of the graph around one or several addresses, nearest first, at most ``limit`` nodes.

        ``{"roots", "direction", "truncated", "nodes", "edges"}``. Cache hits stand collapsed on the record that did the
        work, which counts them in ``hits``. A node's ``more`` counts its neighbours that the page does not show.
        """
        with self._lock:
            roots = [self._shown(self._known(one)) for one in ([address] if isinstance(address, str) else address)]
            inside, truncated = self._nearest(list(dict.fromkeys(roots)), DIRECTIONS[direction], limit)
            edges = [
                {"from": edge.source, "to": edge.target, "name": edge.name}
                for node in inside
                for edge in self.graph.into.get(node, ())
                if edge.source in inside
            ]
            more = self._more(inside, edges)
            nodes = [self._brief(node) | {"more": more[node]} for node in inside]
            return {"roots": roots, "direction": direction, "truncated": truncated, "nodes": nodes, "edges": edges}

    def node(self, address: str) -> dict[str, Any]:
        """Everything about one artifact or record, with what stands around it in brief. Raises :class:`ReferenceRefused`."""
        with self._lock:
            found = self._known(address)
            return self._record(found) if found in self.graph.records else self._artifact(found)

    def search(self, text: str, limit: int = 50) -> list[dict[str, Any]]:
        """Brief nodes, newest first, whose hash, kind, step, method, labels, runs or commit hold every word of ``text``."""
        words = text.lower().removeprefix("sha256:").split()
        with self._lock:
            found = (node for node in self._newest() if all(word in self._text(node) for word in words))
            return [self._brief(node) for node, _ in zip(found, range(limit), strict=False)]

    def of_run(self, dag_id: str, run_id: str, task_id: str | None = None) -> list[str]:
        """Addresses of the records of an Airflow DAG run, or of one task of it, oldest first."""
        with self._lock:
            records = self._runs.get((dag_id, run_id), [])
            return [one for one in records if task_id is None or self.graph.records[one]["airflow"]["task_id"] == task_id]

    def find(self, prefix: str) -> str:
        """The one address that begins with ``prefix``; raises :class:`ReferenceRefused`."""
        with self._lock:
            return self.graph.find(prefix)

    def _nearest(self, roots: list[str], directions: Sequence[Direction], limit: int) -> tuple[dict[str, None], bool]:
        """Nodes by distance from the roots; both directions take turns, so that neither crowds the other out."""
        inside = dict.fromkeys(roots)
        waiting = deque((root, direction) for root in roots for direction in directions)
        while waiting:
            node, direction = waiting.popleft()
            for other in self._neighbours(node, direction):
                if other in inside:
                    continue
                if len(inside) >= limit:
                    return inside, True
                inside[other] = None
                waiting.append((other, direction))
        return inside, False

    def _more(self, inside: Iterable[str], edges: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
        """How many neighbours of each node inside are outside."""
        left = {node: {direction: len(self._neighbours(node, direction)) for direction in DIRECTIONS["both"]} for node in inside}
        for source, target in {(edge["from"], edge["to"]) for edge in edges}:
            left[source]["descendants"] -= 1
            left[target]["ancestors"] -= 1
        return left

    def _neighbours(self, node: str, direction: Direction) -> list[str]:
        if (node, direction) not in self._adjacent:
            self._adjacent[node, direction] = self.graph.neighbours(node, direction)
        return self._adjacent[node, direction]

    def _known(self, address: str) -> str:
        address = address.removeprefix("sha256:")
        if address not in self.graph.artifacts and address not in self.graph.records:
            return self.graph.find(address)
        return address

    def _shown(self, node: str) -> str:
        return self.graph.worker(node) if node in self.graph.records else node

    def _newest(self) -> Iterator[str]:
        """Artifacts, those that a name stands for first, then records; each the newest first."""
        artifacts = list(reversed(self.graph.artifacts))
        yield from (node for node in artifacts if node in self.snapshot.labels)
        yield from (node for node in artifacts if node not in self.snapshot.labels)
        yield from reversed(self.graph.records)

    def _brief(self, node: str) -> dict[str, Any]:
        record = self.graph.records.get(node)
        shared = {"id": node, "short": node[:SHORT], "revoked": node in self.snapshot.revoked, "tainted": node in self.snapshot.tainted}
        if record is None:
            labels = self.snapshot.labels.get(node, [])
            kind = self.graph.artifacts[node]
            return shared | {
                "type": "artifact",
                "kind": kind,
                "step": None,
                "method": None,
                "label": labels[0] if labels else None,
                "aliases": self.snapshot.in_use.get(node, []),
                "metric": self._headline(self._measured.get(node, [])[-1:]),
                "started": None,
                "hit": False,
                "hits": 0,
            }
        return shared | {
            "type": "record",
            "kind": None,
            "step": record["step"],
            "method": record.get("method"),
            "label": None,
            "aliases": [],
            "metric": self._headline([node]),
            "started": record["started"],
            "hit": record["cache"]["hit"],
            "hits": self.graph.hits.get(node, 0),
        }

    def _headline(self, records: Iterable[str]) -> dict[str, Any] | None:
        for record in (self.graph.records[one] for one in records):
            for name in headline(record)[:1]:
                return {"name": name, "value": record["metrics"][name]}
        return None

    def _record(self, address: str) -> dict[str, Any]:
        record = self.graph.records[address]
        around = {
            side: [{"name": name, **entry, **self._brief(entry["sha256"])} for name, entry in record[side].items()]
            for side in ("inputs", "outputs")
        }
        return self._brief(address) | {"record": record, **around, "cost": total([record], self._prices), "hit_of": self._hit_of(address)}

    def _hit_of(self, address: str) -> str | None:
        worker = self.graph.worker(address)
        return None if worker == address else worker

    def _artifact(self, address: str) -> dict[str, Any]:
        kind = self.graph.artifacts[address]
        graph, maker = self.graph, self.graph.maker(address)
        above = [graph.records[one] for one in graph.ancestors(address) if one in graph.records]
        stored = self._stored(kind, address)
        return self._brief(address) | {
            "uri": f"{self.snapshot.store.backend.uri}/artifacts/{kind}/{address}",
            "labels": self.snapshot.labels.get(address, []),
            "imported": self.snapshot.imports.get(address),
            "revocation": self.snapshot.revoked.get(address),
            "stored": stored is not None,
            "collected_by": None if stored is not None else self.snapshot.collected.get(address),
            "files": stored or [],
            "size": sum(entry["size"] for entry in stored or []),
            "maker": None if maker is None else self._brief(maker),
            "measurements": [self._brief(one) for one in reversed(self._measured.get(address, []))],
            "used_by": [self._brief(one) for one in self._neighbours(address, "descendants")[:PAGE]],
            "cost": total(above, self._prices),
        }

    def _stored(self, kind: str, address: str) -> list[dict[str, Any]] | None:
        data = self.snapshot.store.backend.get_bytes(f"artifacts/{kind}/{address}/{MANIFEST}")
        return None if data is None else json.loads(data)["files"]

    def _text(self, node: str) -> str:
        """What a search looks at, in lower case."""
        if node not in self._words:
            record = self.graph.records.get(node)
            self._words[node] = f"{node} {self.graph.artifacts[node]}" if record is None else _record_words(node, record)
        return f"{self._words[node]} {' '.join(self.snapshot.labels.get(node, ())).lower()}"


def _record_words(node: str, record: dict[str, Any]) -> str:
    airflow, mlflow = record.get("airflow") or {}, record.get("mlflow") or {}
    words = [node, record["step"], record.get("method"), record["started"], record["project"]]
    words += [airflow.get(name) for name in ("dag_id", "run_id", "task_id", "user")]
    words += [mlflow.get("run_id"), record["code"].get("git_commit"), (record.get("parent") or {}).get("key")]
    return " ".join(str(word) for word in words if word).lower()
