"""The lineage graph, from the records in the store alone: what was made from what, by which step. No MLflow needed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ReferenceRefused

Direction = Literal["ancestors", "descendants"]
SHORT = 12


@dataclass(frozen=True)
class Edge:
    """``source`` went into ``target``, or came out as it, under ``name``. One end is an artifact, the other a record."""

    source: str
    target: str
    name: str


@dataclass
class Graph:
    """Artifacts ({sha256: kind}), records ({address: record}), how often each answered a later job, and the edges between them."""

    artifacts: dict[str, str] = field(default_factory=dict)
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    hits: Counter[str | None] = field(default_factory=Counter)
    into: dict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))
    out_of: dict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, store: Store) -> Graph:
        """The graph of everything in ``store``."""
        graph = cls.from_records(store.records())
        graph.artifacts |= {sha256: kind for kind, sha256 in store.artifacts()}
        return graph

    @classmethod
    def from_records(cls, records: Iterable[tuple[str, Mapping[str, Any]]]) -> Graph:
        """Cache hits are nodes of their own: they made nothing new, and say which record did."""
        graph = cls()
        for address, record in sorted(records, key=lambda item: (item[1]["started"], item[0])):
            graph.records[address] = record
            graph.hits[record["cache"].get("record")] += 1
            for name, given in record["inputs"].items():
                graph._join(given["sha256"], given["kind"], Edge(given["sha256"], address, name))
            for name, made in record["outputs"].items():
                graph._join(made["sha256"], made["kind"], Edge(address, made["sha256"], name))
        return graph

    def ancestors(self, address: str) -> set[str]:
        """Every artifact and record that ``address`` was made from."""
        return self._reach(address, "ancestors")

    def descendants(self, address: str) -> set[str]:
        """Every artifact and record that was made from ``address``."""
        return self._reach(address, "descendants")

    def find(self, prefix: str) -> str:
        """The one address that begins with ``prefix`` (with or without ``sha256:``)."""
        wanted = prefix.removeprefix("sha256:")
        found = [address for address in (*self.artifacts, *self.records) if address.startswith(wanted)]
        if len(set(found)) != 1:
            what = "is in no record of this store" if not found else f"begins {len(found)} addresses; write more digits"
            raise ReferenceRefused(f"{prefix!r} {what}. `lfm models` lists registered models with their addresses.")
        return found[0]

    def maker(self, artifact: str) -> str | None:
        """The record that first made the artifact: the earliest that was no cache hit."""
        makers = [edge.source for edge in self.into[artifact]]
        return next((address for address in makers if not self.records[address]["cache"]["hit"]), next(iter(makers), None))

    def to_json(self, address: str, direction: Direction = "ancestors", labels: Mapping[str, str] | None = None) -> dict[str, Any]:
        """``{"root", "direction", "nodes", "edges"}`` of the part that :meth:`ancestors` or :meth:`descendants` reaches."""
        inside = self._reach(address, direction) | {address}
        edges = [edge for node in sorted(inside) for edge in self.into[node] if edge.source in inside]
        return {
            "root": address,
            "direction": direction,
            "nodes": [self._node(node, labels or {}) for node in sorted(inside)],
            "edges": [{"from": edge.source, "to": edge.target, "name": edge.name} for edge in edges],
        }

    def tree(self, address: str, direction: Direction = "ancestors", labels: Mapping[str, str] | None = None) -> list[str]:
        """Plain lines: the artifact, the step that made it, that step's inputs, and so on. What was shown before is not repeated."""
        return list(self._lines(address, direction, labels or {}, "", "", "", set()))

    def _lines(
        self, node: str, direction: Direction, labels: Mapping[str, str], first: str, rest: str, name: str, seen: set[str]
    ) -> Iterator[str]:
        again = node in seen
        seen.add(node)
        edges = self._shown_edges(node, direction)
        yield first + (f"{name}: " if name else "") + self._title(node, labels) + (" (see above)" if again and edges else "")
        if again:
            return
        for place, edge in enumerate(edges, start=1):
            last = place == len(edges)
            to = edge.source if direction == "ancestors" else edge.target
            under = edge.name if to in self.artifacts else ""
            yield from self._lines(to, direction, labels, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), under, seen)

    def _shown_edges(self, node: str, direction: Direction) -> list[Edge]:
        """A tree shows one maker of an artifact; the graph keeps them all."""
        if direction == "descendants":
            return [edge for edge in self.out_of[node] if not self._is_hit(edge.target)]
        if node in self.artifacts:
            maker = self.maker(node)
            return [edge for edge in self.into[node] if edge.source == maker][:1]
        return self.into[node]

    def _is_hit(self, node: str) -> bool:
        return node in self.records and self.records[node]["cache"]["hit"]

    def _title(self, node: str, labels: Mapping[str, str]) -> str:
        if node in self.artifacts:
            label = f"  {labels[node]}" if node in labels else ""
            return f"{self.artifacts[node]} {node[:SHORT]}{label}"
        record = self.records[node]
        what = " ".join(part for part in (record["step"], record.get("method")) if part)
        hits = self.hits[node]
        notes = [f"record {node[:SHORT]}", *self._measured(record), record["finished"][:16].replace("T", " ")]
        return f"{what}  " + "  ".join(notes) + (f"  reused {hits}x" if hits else "")

    @staticmethod
    def _measured(record: Mapping[str, Any]) -> list[str]:
        """The few numbers a person looks for first."""
        wanted = ("accuracy", "macro_f1", "perplexity", "loss", "train/loss", "validation/loss", "rows", "moved")
        chosen = [name for name in wanted if name in record["metrics"]] or sorted(record["metrics"])
        return [f"{name} {record['metrics'][name]:.4g}" for name in chosen[:2]]

    def _node(self, node: str, labels: Mapping[str, str]) -> dict[str, Any]:
        if node in self.artifacts:
            return {"id": node, "type": "artifact", "kind": self.artifacts[node], "label": labels.get(node)}
        record = self.records[node]
        shown = {
            key: record.get(key) for key in ("step", "method", "metrics", "started", "finished", "cache", "mlflow", "airflow", "summary")
        }
        return {"id": node, "type": "record", **shown}

    def _join(self, artifact: str, kind: str, edge: Edge) -> None:
        self.artifacts[artifact] = kind
        self.out_of[edge.source].append(edge)
        self.into[edge.target].append(edge)

    def _reach(self, address: str, direction: Direction) -> set[str]:
        found: set[str] = set()
        waiting = [address]
        while waiting:
            node = waiting.pop()
            next_nodes = [e.source for e in self.into[node]] if direction == "ancestors" else [e.target for e in self.out_of[node]]
            fresh = set(next_nodes) - found - {address}
            found |= fresh
            waiting += fresh
        return found
