"""``lfm show``, ``lineage``, ``models``, ``verify``, ``records sync`` and ``reap``: what was made from what."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from lfm_tasks.artifacts.references import parse_reference
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import ConfigError, IntegrityError, ReferenceRefused
from lfm_tasks.settings import settings


def register(commands: Any) -> None:
    show = commands.add_parser("show", help="an artifact: its files, its sizes, who made it")
    show.add_argument("reference")
    show.add_argument("--json", action="store_true")
    show.set_defaults(call=_show)

    lineage = commands.add_parser("lineage", help="what an artifact was made from")
    lineage.add_argument("reference")
    lineage.add_argument("--descendants", action="store_true", help="what was made from it instead")
    lineage.add_argument("--json", action="store_true")
    lineage.set_defaults(call=_lineage)

    models = commands.add_parser("models", help="registered models, their versions and aliases")
    models.add_argument("--json", action="store_true")
    models.set_defaults(call=_models)

    verify = commands.add_parser("verify", help="read every byte of artifacts back and compare")
    verify.add_argument("references", nargs="*", help="default: everything in the store")
    verify.set_defaults(call=_verify)

    records = commands.add_parser("records", help="the store's lineage records")
    actions = records.add_subparsers(dest="action", required=True)
    sync = actions.add_parser("sync", help="put records that MLflow does not know into MLflow")
    sync.add_argument("--json", action="store_true")
    sync.set_defaults(call=_sync)

    reap = commands.add_parser("reap", help="close MLflow runs whose process is gone")
    reap.add_argument("--older-than", type=float, default=60.0, metavar="MINUTES", help="for runs that no Airflow task answers for")
    reap.add_argument("--json", action="store_true")
    reap.set_defaults(call=_reap)


def _store() -> Store:
    return Store.open(settings().store)


def _find(text: str, store: Store) -> Artifact:
    """The artifact of a reference that the store already holds; a unique start of an address is enough."""
    reference_text = text.removeprefix("sha256:")
    if len(reference_text) < 64 and all(c in "0123456789abcdef" for c in reference_text) and len(reference_text) >= 6:
        matches = [address for _, address in store.artifacts() if address.startswith(reference_text)]
        if len(matches) != 1:
            raise ReferenceRefused(f"{text} fits {len(matches)} artifacts; give more of the address.")
        return store.find(matches[0])
    reference = parse_reference(text, settings().prefixes)
    if reference.scheme == "models":
        from lfm_tasks.tracking.tracker import Tracker

        address, _ = Tracker.open(settings(), store).resolve(reference)
        return store.find(address)
    if reference.scheme == "sha256":
        return store.find(reference.name)
    raise ConfigError(f"{text} names no artifact in the store; give sha256:… or models:/NAME@ALIAS.")


def _show(options: argparse.Namespace) -> int:
    store = _store()
    artifact = _find(options.reference, store)
    makers = [
        {"record": address, "step": record["step"], "output": name, "finished": record.get("finished")}
        for address, record in store.records()
        for name, output in record.get("outputs", {}).items()
        if output["sha256"] == artifact.sha256
    ]
    if options.json:
        print(json.dumps({"uri": artifact.uri, **artifact.manifest.model_dump(mode="json"), "made_by": makers}, indent=2))
        return 0
    print(f"{artifact.kind} sha256:{artifact.sha256}\n{artifact.uri}\n")
    for entry in artifact.manifest.files:
        print(f"{entry.size:>14,}  {entry.sha256[:12]}  {entry.path}")
    for maker in makers:
        print(f"\nmade by {maker['step']} (record {maker['record'][:12]}, {maker['finished']})", end="")
    print()
    return 0


def _lineage(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.lineage import Graph

    store = _store()
    address = _find(options.reference, store).sha256
    graph, direction = Graph.of(store), "descendants" if options.descendants else "ancestors"
    print(json.dumps(graph.to_json(address, direction), indent=2) if options.json else "\n".join(graph.tree(address, direction)))
    return 0


def _models(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.tracker import Tracker

    listed = Tracker.open(settings(), _store()).registry.listed()
    if options.json:
        print(json.dumps(listed, indent=2))
        return 0
    for model in listed:
        aliases = ", ".join(f"{alias} → {version}" for alias, version in model["aliases"].items()) or "no alias"
        print(f"{model['name']}  ({aliases})")
        for version in model["versions"]:
            print(f"  {version['version']:>4}  sha256:{version['sha256'] or '?'}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from rich.progress import track

    store = _store()
    artifacts = [_find(text, store) for text in options.references] or [store.find(address) for _, address in store.artifacts()]
    damaged = 0
    for artifact in track(artifacts, "verifying", disable=not sys.stderr.isatty()):
        try:
            store.verify(artifact)
        except IntegrityError as error:
            damaged += 1
            print(f"DAMAGED  {error}")
    for address, _ in store.records():
        store.get_record(address)
    print(f"{len(artifacts) - damaged} of {len(artifacts)} artifacts are intact.")
    return IntegrityError.exit_code if damaged else 0


def _sync(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from lfm_tasks.tracking.sync import sync_records
    from lfm_tasks.tracking.tracker import Tracker

    store = _store()
    counts = sync_records(store, Tracker.open(settings(), store))
    if options.json:
        print(json.dumps(asdict(counts)))
    else:
        print(f"{counts.seen} records: {counts.known} known to MLflow, {counts.logged} logged now, {len(counts.failed)} failed")
        print("".join(f"{address[:12]}  {reason}\n" for address, reason in counts.failed.items()), end="")
    return 1 if counts.failed else 0


def _reap(options: argparse.Namespace) -> int:
    from dataclasses import asdict
    from datetime import timedelta

    from lfm_tasks.tracking.reaper import reap
    from lfm_tasks.tracking.tracker import Tracker

    store = _store()
    closed = reap(Tracker.open(settings(), store), lambda tags: None, timedelta(minutes=options.older_than))
    listed = ", ".join(f"{one.key or one.run_id} ({one.status})" for one in closed) or "none"
    print(json.dumps([asdict(one) for one in closed]) if options.json else f"{len(closed)} runs closed: {listed}")
    return 0
