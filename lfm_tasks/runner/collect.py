"""The step *collect*: which artifacts nothing in use was made from, and the deletion of those that a person names.

Kept are what an alias names, what the ledger ever named, the evidence it names, and everything that those were made from;
and what was made or used lately. Records are never deleted: the record of a collected artifact says what it was and how
it was made, so that a replay can make it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lfm_tasks.artifacts.manifest import MANIFEST
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import Conflict, InvalidInput
from lfm_tasks.runner.config import CollectConfig
from lfm_tasks.runner.context import RunningContext
from lfm_tasks.step import Input, Outcome
from lfm_tasks.tracking.snapshot import Snapshot
from lfm_tasks.tracking.tracker import Tracker

SHOWN = 100


@dataclass(frozen=True)
class Survey:
    """``kept`` says why an artifact is; ``free`` are those that may go, largest first, with the time of their last use."""

    kept: dict[str, str]
    free: list[tuple[Artifact, datetime]]

    @property
    def bytes(self) -> int:
        return sum(artifact.manifest.size for artifact, _ in self.free)

    def entries(self) -> list[dict[str, Any]]:
        return [
            {"kind": artifact.kind, "sha256": artifact.sha256, "size": artifact.manifest.size, "last_used": used.isoformat()}
            for artifact, used in self.free
        ]


def run(config: CollectConfig, inputs: Mapping[str, Input], context: RunningContext) -> Outcome:
    tracker, store = context.tracker, context.tracker.store
    found = survey(store, tracker, timedelta(days=config.keep_days))
    wanted = [address.removeprefix("sha256:") for address in config.delete]
    deleted = delete(store, tracker, found, wanted, context) if wanted else []
    cleared = sweep(store, quiet=not _others(tracker, context))
    context.log(f"{len(found.free)} artifacts ({found.bytes:,} bytes) may go, {len(found.kept)} are kept; {len(deleted)} were deleted.")
    page = context.workdir / "collect.md"
    page.write_text(_page(found, deleted))
    entries = found.entries()
    summary = {"deleted": deleted, "free": entries[:SHOWN], "swept": cleared}
    metrics = {"kept": len(found.kept), "free": len(entries), "free_bytes": found.bytes, "deleted": len(deleted)}
    metrics["deleted_bytes"] = sum(entry["size"] for entry in deleted)
    return Outcome({}, {name: float(value) for name, value in metrics.items()}, summary, (page,))


def survey(store: Store, tracker: Tracker, keep: timedelta) -> Survey:
    """Look at every artifact. Nothing is changed."""
    snapshot, since = Snapshot.of(store), datetime.now(UTC) - keep
    kept, used = reachable(snapshot, _aliased(tracker)), last_use(snapshot)
    free = []
    for _, address in store.artifacts():
        if address in kept:
            continue
        artifact = store.find(address)
        written = store.backend.modified(f"artifacts/{artifact.kind}/{address}/{MANIFEST}") or datetime.now(UTC)
        last = max(written, used.get(address, written))
        if last > since:
            kept[address] = f"was used at {last.isoformat(timespec='seconds')}, less than {keep.total_seconds() / 86400:g} days ago"
        else:
            free.append((artifact, last))
    return Survey(kept, sorted(free, key=lambda pair: (-pair[0].manifest.size, pair[0].sha256)))


def reachable(snapshot: Snapshot, aliased: Mapping[str, str]) -> dict[str, str]:
    """{address: why it is kept} of what ``aliased`` {address: MODEL@ALIAS} and the ledger name, and of all that went into it."""
    roots: dict[str, str] = {}
    for model, entries in snapshot.moves.items():
        for entry in entries:
            roots.setdefault(entry["evidence_sha256"], f"is evidence in the ledger of {model} (entry {entry['n']})")
            roots[entry["artifact_sha256"]] = f"is version {entry['to']} of {model} in the ledger"
    roots |= {address: f"is {alias}" for address, alias in aliased.items()}
    found = dict(roots)
    for root, why in roots.items():
        for node in snapshot.graph.ancestors(root):
            if node in snapshot.graph.artifacts:
                found.setdefault(node, f"went into sha256:{root[:12]}, which {why}")
    return found


def last_use(snapshot: Snapshot) -> dict[str, datetime]:
    """{address: when the last record that names it ended}."""
    found: dict[str, datetime] = {}
    for record in snapshot.graph.records.values():
        finished = datetime.fromisoformat(record["finished"])
        for entry in (*record["inputs"].values(), *record["outputs"].values()):
            for address in (entry["sha256"], entry.get("base_sha256")):
                if address:
                    found[address] = max(found.get(address, finished), finished)
    return found


def delete(store: Store, tracker: Tracker, found: Survey, wanted: list[str], context: RunningContext) -> list[dict[str, Any]]:
    """Delete all of ``wanted``, or nothing: raises :class:`InvalidInput` when one is kept or absent, :class:`Conflict` while steps run."""
    free = {artifact.sha256: artifact for artifact, _ in found.free}
    refused = [f"sha256:{one} {found.kept.get(one, 'is not in the store')}." for one in wanted if one not in free]
    if refused:
        raise InvalidInput(f"Nothing was deleted. {' '.join(refused)} Take them out of the list; `lfm collect` shows what may go.")
    others = _others(tracker, context)
    if others:
        raise Conflict(
            f"Nothing was deleted: {len(others)} attempts run ({', '.join(others[:5])}), and what they work on may be among these. "
            "Collect again when they have ended; `lfm reap` closes the runs of dead processes."
        )
    store.forget_cached(set(wanted))
    deleted = []
    for place, address in enumerate(wanted, start=1):
        artifact = free[address]
        files = {entry.path: entry.sha256 for entry in artifact.manifest.files} | {MANIFEST: artifact.sha256}
        tracker.withdraw(address, files)
        store.remove(artifact)
        deleted.append({"kind": artifact.kind, "sha256": address, "size": artifact.manifest.size})
        context.report(place, len(wanted))
    return deleted


def sweep(store: Store, quiet: bool) -> int:
    """Remove what dead writers and interrupted deletions have left; return how many. ``quiet``: no attempt runs, so that the
    checkpoints of jobs that ended well once are nobody's any more.
    """
    done = {record["job_id"] for _, record in store.records()} if quiet else set()
    leftovers = [f"checkpoints/{job}" for job in {key.split("/")[1] for key in store.backend.list("checkpoints/")} & done]
    leftovers += store.remnants() if store.backend.local_path("artifacts") is not None else []
    for prefix in leftovers:
        store.backend.delete(prefix)
    return store.sweep() + len(leftovers)


def _others(tracker: Tracker, context: RunningContext) -> list[str]:
    """Keys of the attempts that run beside this one."""
    return sorted(key for run, key in tracker.running().items() if run != context.run_id)


def _aliased(tracker: Tracker) -> dict[str, str]:
    """{address: MODEL@ALIAS} of every alias in MLflow, whoever set it."""
    return {
        row["sha256"]: f"{model['name']}@{alias}"
        for model in tracker.registry.listed()
        for alias, version in model["aliases"].items()
        for row in model["versions"]
        if row["version"] == version and row["sha256"]
    }


def _page(found: Survey, deleted: list[dict[str, Any]]) -> str:
    lines = [
        f"# Collection: {len(deleted)} deleted, {len(found.free)} may go",
        "",
        "| kind | address | bytes | last used |",
        "|---|---|---:|---|",
    ]
    lines += [f"| {e['kind']} | `sha256:{e['sha256']}` | {e['size']:,} | {e['last_used'][:16]} |" for e in found.entries()]
    lines += ["", "## Deleted", "", *(f"- {e['kind']} `sha256:{e['sha256']}` ({e['size']:,} bytes)" for e in deleted)] if deleted else []
    return "\n".join([*lines, ""])
