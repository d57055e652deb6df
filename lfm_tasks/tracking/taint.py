"""Which marks are in force, and how they go on to what was made from a revoked artifact. Pure: nothing is read or written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lfm_tasks.steps import STEPS
from lfm_tasks.tracking.lineage import Edge, Graph


def apply_mark(marks: dict[str, dict[str, Any]], entry: Mapping[str, Any]) -> None:
    """Bring ``marks``, {artifact sha256: the entry that revoked it}, up to the next entry of the chain of revocations."""
    if entry["action"] == "revoke":
        marks[entry["sha256"]] = dict(entry)
    else:
        marks.pop(entry["sha256"], None)


def carried(graph: Graph) -> Callable[[Edge], bool]:
    """Which edges a mark goes along: all, but those into a step that only compares with what is at their other end.

    The gate's decision about a challenger does not become void because the champion that it is to replace was revoked.
    """

    def follow(edge: Edge) -> bool:
        record = graph.records.get(edge.target)
        if record is None or record["step"] not in STEPS:
            return True
        inputs = STEPS[record["step"]].inputs
        judged = [name for name, spec in inputs.items() if spec.refuse_revoked]
        return not judged or re.split(r"[ .]", edge.name)[0] in judged

    return follow


def tainted(graph: Graph, revoked: Iterable[str]) -> set[str]:
    """Every artifact and record that descends from ``revoked`` artifacts."""
    return graph.descendants(*revoked, follow=carried(graph))


def revoked_among(graph: Graph, revoked: Iterable[str], *addresses: str) -> list[str]:
    """Those ``revoked`` artifacts that are among ``addresses`` or their ancestors."""
    inside = graph.ancestors(*addresses, follow=carried(graph)) | set(addresses)
    return sorted(inside.intersection(revoked))
