"""``lfm show``, ``models``, ``verify``, ``records sync``, ``collect`` and ``reap``: what is there, and whether it is whole."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from lfm_tasks.commands.jobs import run_here
from lfm_tasks.commands.references import HELP, find_artifact, open_store
from lfm_tasks.commands.tables import byte_count
from lfm_tasks.errors import IntegrityError
from lfm_tasks.runner.config import CollectConfig
from lfm_tasks.runner.job import Job
from lfm_tasks.settings import settings


def register(commands: Any) -> None:
    show = commands.add_parser("show", help="an artifact: its files, its sizes, who made it")
    show.add_argument("reference", help=HELP)
    show.add_argument("--json", action="store_true")
    show.set_defaults(call=_show)

    models = commands.add_parser("models", help="registered models, their versions and aliases")
    models.add_argument("--json", action="store_true")
    models.set_defaults(call=_models)

    verify = commands.add_parser("verify", help="read every byte of artifacts back and compare")
    verify.add_argument("references", nargs="*", help="default: everything in the store")
    verify.set_defaults(call=_verify)

    records = commands.add_parser("records", help="the store's lineage records")
    actions = records.add_subparsers(dest="action", required=True)
    sync = actions.add_parser("sync", help="put records that MLflow does not know into MLflow")
    sync.add_argument("--all", action="store_true", help="also registered versions and aliases, from the ledger")
    sync.add_argument("--json", action="store_true")
    sync.set_defaults(call=_sync)

    field = CollectConfig.model_fields["keep_days"]
    collect = commands.add_parser("collect", help="what nothing in use was made from, and its deletion")
    collect.add_argument("--keep-days", type=float, default=field.default, help=field.description)
    collect.add_argument("--delete", nargs="+", metavar="sha256:…", help="delete these; without it, nothing is deleted")
    collect.add_argument("--json", action="store_true")
    collect.set_defaults(call=_collect)

    reap = commands.add_parser("reap", help="close MLflow runs whose process is gone")
    reap.add_argument("--older-than", type=float, default=60.0, metavar="MINUTES", help="for runs that no Airflow task answers for")
    reap.add_argument("--json", action="store_true")
    reap.set_defaults(call=_reap)


def _show(options: argparse.Namespace) -> int:
    store = open_store()
    artifact = find_artifact(options.reference, store)
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


def _models(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.tracker import Tracker

    listed = Tracker.open(settings(), open_store()).registry.listed()
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

    store = open_store()
    artifacts = [find_artifact(text, store) for text in options.references] or [store.find(address) for _, address in store.artifacts()]
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

    from lfm_tasks.tracking.sync import sync_records, sync_registry
    from lfm_tasks.tracking.tracker import Tracker

    store = open_store()
    tracker = Tracker.open(settings(), store)
    counts = sync_records(store, tracker)
    registry = sync_registry(store, tracker) if options.all else {}
    problems = [problem for found in registry.values() for problem in found]
    if options.json:
        print(json.dumps(asdict(counts) | ({"registry": registry} if options.all else {})))
    else:
        print(f"{counts.seen} records: {counts.known} known to MLflow, {counts.logged} logged now, {len(counts.failed)} failed")
        print("".join(f"{address[:12]}  {reason}\n" for address, reason in counts.failed.items()), end="")
        if options.all:
            print(f"{len(registry)} registered models as the ledger names them, {len(problems)} problems")
            print("".join(f"{problem}\n" for problem in problems), end="")
    return 1 if counts.failed or problems else 0


def _collect(options: argparse.Namespace) -> int:
    from datetime import timedelta

    from lfm_tasks.runner.collect import survey
    from lfm_tasks.tracking.tracker import Tracker

    if options.delete:
        return _delete(options)
    store = open_store()
    found = survey(store, Tracker.open(settings(), store), timedelta(days=options.keep_days))
    if options.json:
        print(json.dumps({"free": found.entries(), "bytes": found.bytes, "kept": found.kept}, indent=2))
        return 0
    for entry in found.entries():
        print(f"{entry['size']:>16,}  {entry['kind']:<10} sha256:{entry['sha256']}  last used {entry['last_used'][:16]}")
    print(f"{len(found.free)} artifacts ({byte_count(found.bytes) or '0 bytes'}) may go; {len(found.kept)} are kept. Nothing was deleted.")
    return 0


def _delete(options: argparse.Namespace) -> int:
    with redirect_stdout(sys.stderr):
        result = run_here(Job(step="collect", config={"keep_days": options.keep_days, "delete": options.delete}))
    deleted = result.summary["deleted"]
    if options.json:
        print(json.dumps({"deleted": deleted, "record": result.record}, indent=2))
    else:
        size = byte_count(sum(entry["size"] for entry in deleted)) or "0 bytes"
        print(f"{len(deleted)} artifacts ({size}) are deleted (record {result.record[:12]}); their records are kept.")
    return 0


def _reap(options: argparse.Namespace) -> int:
    from dataclasses import asdict
    from datetime import timedelta

    from lfm_tasks.tracking.reaper import reap
    from lfm_tasks.tracking.tracker import Tracker

    store = open_store()
    closed = reap(Tracker.open(settings(), store), lambda tags: None, timedelta(minutes=options.older_than))
    listed = ", ".join(f"{one.key or one.run_id} ({one.status})" for one in closed) or "none"
    print(json.dumps([asdict(one) for one in closed]) if options.json else f"{len(closed)} runs closed: {listed}")
    return 0
