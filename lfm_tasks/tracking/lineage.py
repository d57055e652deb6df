"""The lineage graph, from the records in the store alone: what was made from what, by which step. No MLflow needed."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ReferenceRefused
from lfm_tasks.metrics.primary import PRIMARY

Direction = Literal["ancestors", "descendants"]
SHORT = 12
HEADLINES = (
    *PRIMARY,
    "accuracy",
    "macro_f1",
    "perplexity",
    "validation_loss_best",
    "train_loss_final",
    "loss",
    "rows/kept",
    "moved",
)


@dataclass(frozen=True)
class Edge:
    """``source`` went into ``target``, or came out as it, under ``name``. One end is an artifact, the other a record."""

    source: str
    target: str
    name: str


Follow = Callable[[Edge], bool]


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
        """The graph of ``records``, each given with its address."""
        graph = cls()
        for address, record in sorted(records, key=lambda item: (item[1]["started"], item[0])):
            graph.add(address, record)
        return graph

    def add(self, address: str, record: Mapping[str, Any]) -> None:
        """Add one record. A cache hit is a node of its own: it made nothing new, and says which record did."""
        self.records[address] = record
        self.hits[record["cache"].get("record")] += 1
        for name, given in record["inputs"].items():
            self._join(given["sha256"], given["kind"], Edge(given["sha256"], address, name))
            if base := given.get("base_sha256"):
                self._join(base, "model", Edge(base, address, f"{name} (base)"))
        for name, made in record["outputs"].items():
            self._join(made["sha256"], made["kind"], Edge(address, made["sha256"], name))

    def ancestors(self, *addresses: str, follow: Follow = lambda edge: True) -> set[str]:
        """Every artifact and record that ``addresses`` were made from, along the edges that ``follow`` lets through."""
        return self._reach(addresses, "ancestors", follow)

    def descendants(self, *addresses: str, follow: Follow = lambda edge: True) -> set[str]:
        """Every artifact and record that was made from ``addresses``, along the edges that ``follow`` lets through."""
        return self._reach(addresses, "descendants", follow)

    def path(self, source: str, target: str) -> list[str]:
        """Artifacts and records on a shortest way from ``source`` to what was made from it; empty where there is none."""
        before: dict[str, str] = {source: ""}
        waiting = deque([source])
        while waiting and target not in before:
            node = waiting.popleft()
            for edge in self.out_of.get(node, ()):
                if edge.target not in before and not self._is_hit(edge.target):
                    before[edge.target] = node
                    waiting.append(edge.target)
        found, node = [], target if target in before else ""
        while node:
            found.append(node)
            node = before[node]
        return found[::-1]

    def neighbours(self, node: str, direction: Direction) -> list[str]:
        """What is one edge away, newest first. Cache hits are left out: they stand for the record that did the work."""
        if direction == "ancestors":
            found = [edge.source for edge in self.into.get(node, ())]
        else:
            found = [edge.target for edge in self.out_of.get(node, ())]
        return list(dict.fromkeys(other for other in reversed(found) if not self._is_hit(other)))

    def worker(self, record: str) -> str:
        """The record that did the work: ``record`` itself, unless it is a cache hit."""
        made = self.records[record]["cache"].get("record") if self._is_hit(record) else None
        return made if made in self.records else record

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
        makers = [(self._is_hit(edge.source), self.records[edge.source]["started"], edge.source) for edge in self.into.get(artifact, ())]
        return min(makers)[2] if makers else None

    def to_json(self, address: str, direction: Direction = "ancestors", labels: Mapping[str, str] | None = None) -> dict[str, Any]:
        """``{"root", "direction", "nodes", "edges"}`` of the part that :meth:`ancestors` or :meth:`descendants` reaches."""
        inside = self._reach([address], direction) | {address}
        edges = [edge for node in sorted(inside) for edge in self.into.get(node, ()) if edge.source in inside]
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
            return [edge for edge in self.out_of.get(node, ()) if not self._is_hit(edge.target)]
        if node in self.artifacts:
            maker = self.maker(node)
            return [edge for edge in self.into.get(node, ()) if edge.source == maker][:1]
        return self.into.get(node, [])

    def _is_hit(self, node: str) -> bool:
        """True for a cache hit whose work is in this graph."""
        record = self.records.get(node)
        return record is not None and record["cache"]["hit"] and record["cache"]["record"] in self.records

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
        return [f"{name} {record['metrics'][name]:.4g}" for name in headline(record)[:2]]

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

    def _reach(self, addresses: Iterable[str], direction: Direction, follow: Follow = lambda edge: True) -> set[str]:
        start = set(addresses)
        found, waiting = set(start), list(start)
        while waiting:
            node = waiting.pop()
            if direction == "ancestors":
                fresh = {edge.source for edge in self.into.get(node, ()) if follow(edge)} - found
            else:
                fresh = {edge.target for edge in self.out_of.get(node, ()) if follow(edge)} - found
            found |= fresh
            waiting += fresh
        return found - start


def headline(record: Mapping[str, Any]) -> list[str]:
    """Names of the record's metrics, those that a person looks for first at the beginning."""
    metrics = record["metrics"]
    return [name for name in HEADLINES if name in metrics] or sorted(metrics)
