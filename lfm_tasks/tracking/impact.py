"""Which models in use contain an artifact. Pure: a snapshot in, plain JSON out."""

from __future__ import annotations

from typing import Any

from lfm_tasks.tracking.snapshot import Snapshot


def models_in_use(snapshot: Snapshot, address: str) -> list[dict[str, Any]]:
    """The aliases whose models are ``address`` or were made from it, with the steps of a shortest way.

    ``[{"model", "alias", "version", "sha256", "steps": [{"record", "step", "method"}]}]``.
    """
    graph, found = snapshot.graph, []
    inside = graph.descendants(address) | {address}
    for model, aliases in sorted(snapshot.aliases.items()):
        for alias, (version, sha256) in sorted(aliases.items()):
            if sha256 in inside:
                way = [node for node in graph.path(address, sha256) if node in graph.records]
                steps = [{"record": one, "step": graph.records[one]["step"], "method": graph.records[one].get("method")} for one in way]
                found.append({"model": model, "alias": alias, "version": version, "sha256": sha256, "steps": steps})
    return found
