"""``lfm ledger`` and ``lfm taint``: who moved which alias, what it named at any time, and what was revoked."""

from __future__ import annotations

import argparse
import getpass
import json
from datetime import UTC, datetime
from typing import Any

from lfm_tasks.commands.references import HELP, find_address, open_index, open_store
from lfm_tasks.commands.tables import print_table
from lfm_tasks.errors import IntegrityError, InvalidInput, ReferenceRefused, Revoked, unknown_name
from lfm_tasks.settings import settings


def register(commands: Any) -> None:
    ledger = commands.add_parser("ledger", help="the history of a registered model's aliases, or what they named at a time")
    ledger.add_argument("model", help="name of the registered model")
    ledger.add_argument("--as-of", metavar="TIME", type=_time, help="what each alias named then: ISO 8601, UTC where no offset is given")
    ledger.add_argument("--verify", action="store_true", help="name every entry that was edited, removed or reordered")
    ledger.add_argument("--json", action="store_true")
    ledger.set_defaults(call=_ledger)

    taint = commands.add_parser("taint", help="revoke a data set or a model, so that nothing made from it is promoted")
    taint.add_argument("reference", nargs="?", help=HELP)
    taint.add_argument("--reason", default="", metavar="TEXT", help="why; it is shown wherever the mark is met")
    action = taint.add_mutually_exclusive_group()
    action.add_argument("--lift", action="store_true", help="take the mark away again")
    action.add_argument("--list", action="store_true", help="the marks in force, and all that were ever set")
    taint.add_argument("--json", action="store_true")
    taint.set_defaults(call=_taint)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time. Write ISO 8601, e.g. 2026-05-01 or 2026-05-01T12:00:00+02:00.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _ledger(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.ledger import Ledger, heads

    ledger = Ledger(settings().ledger, open_store())
    if options.verify and (problems := _problems(options.model)) is not None:
        return _report_problems(options, problems)
    entries = ledger.entries(options.model)
    if not entries:
        raise ReferenceRefused(unknown_name("model in the ledger", options.model, ledger.models()))
    if options.as_of:
        _print_aliases(options, heads(entries, options.as_of))
        return 0
    if options.json:
        print(json.dumps([{**entry.content, "sha256": entry.sha256} for entry in entries], indent=2))
        return 0
    rows = []
    for move in (entry.content for entry in entries):
        who = ", ".join(f"{key} {value}" for key, value in move["who"].items())
        rows.append(
            (
                move["n"],
                move["time"],
                move["alias"],
                f"{move['from'] or '-'} → {move['to']}",
                move["artifact_sha256"][:12],
                who,
                move["why"],
            )
        )
    print_table(("n", "time", "alias", "version", "artifact", "who", "why"), rows)
    return 0


def _print_aliases(options: argparse.Namespace, found: dict[str, Any]) -> None:
    named = {
        alias: {"version": entry.content["to"], "sha256": entry.content["artifact_sha256"], "entry": entry.n}
        for alias, entry in found.items()
    }
    if options.json:
        print(json.dumps({"model": options.model, "as_of": options.as_of.isoformat(), "aliases": named}, indent=2))
        return
    for alias, one in named.items():
        print(f"{options.model}@{alias}  version {one['version']}  sha256:{one['sha256']}  (entry {one['entry']})")
    if not named:
        print(f"{options.model} had no alias at {options.as_of.isoformat()}.")


def _problems(model: str) -> list[str] | None:
    """What is wrong with the model's ledger; None where neither the ledger nor a record of a promotion knows the model."""
    from lfm_tasks.tracking.tracker import Tracker

    store = open_store()
    said = (record["summary"] for _, record in store.records() if record["summary"].get("model_name") == model)
    anchors = {summary["entry"]: summary["entry_sha256"] for summary in said if summary.get("entry_sha256")}
    tracker = Tracker.open(settings(), store)
    problems = tracker.registry.verify(model, anchors)
    return problems if problems or tracker.ledger.entries(model) else None


def _report_problems(options: argparse.Namespace, problems: list[str]) -> int:
    sound = f"Every entry of {options.model} is as it was written, and every alias names what it should."
    print(json.dumps(problems, indent=2) if options.json else "\n".join(problems) or sound)
    return IntegrityError.exit_code if problems else 0


def _taint(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.ledger import Ledger
    from lfm_tasks.tracking.revocations import Revocations

    revocations = Revocations(Ledger(settings().ledger, open_store()))
    if options.list:
        return _list_marks(options, revocations)
    if not options.reference:
        raise InvalidInput("Say what is revoked: `lfm taint REFERENCE --reason TEXT`, or `lfm taint --list` for the marks in force.")
    snapshot = open_index().snapshot
    artifacts = snapshot.graph.artifacts
    address = find_address(options.reference, snapshot.store, list(artifacts))
    kind, who = artifacts[address], {"user": getpass.getuser()}
    if options.lift:
        entry = revocations.lift(address, kind, options.reason, who)
        print(json.dumps(entry.content, indent=2) if options.json else f"The mark on {kind} sha256:{address} is lifted (entry {entry.n}).")
        return 0
    entry = revocations.revoke(address, kind, options.reason, who)
    return _report_taint(options, snapshot, entry.content)


def _report_taint(options: argparse.Namespace, snapshot: Any, mark: dict[str, Any]) -> int:
    """Say what descends from the mark. The exit code is that of :class:`Revoked` when a model in use does."""
    from lfm_tasks.tracking.impact import models_in_use
    from lfm_tasks.tracking.taint import tainted

    graph, address = snapshot.graph, mark["sha256"]
    found = [node for node in tainted(graph, [address]) if node in graph.artifacts]
    used = models_in_use(snapshot, address)
    if options.json:
        descendants = [{"kind": graph.artifacts[node], "sha256": node} for node in sorted(found)]
        print(json.dumps({"mark": mark, "descendants": descendants, "in_use": used}, indent=2))
        return Revoked.exit_code if used else 0
    print(f"{mark['kind']} sha256:{address} is revoked (entry {mark['n']}): {mark['why']}")
    print(f"{len(found)} artifacts were made from it:")
    for node in sorted(found, key=lambda node: (graph.artifacts[node], node)):
        aliases = ", ".join(snapshot.in_use.get(node, ()))
        print(
            f"  {graph.artifacts[node]:<10} {node[:12]}  {snapshot.labels.get(node, [''])[0]}" + (f"  IN USE: {aliases}" if aliases else "")
        )
    if not used:
        print("None of them is in use.")
    else:
        print("The gate and promote refuse all of these from now on. What is in use stays until you roll back or promote another model.")
    return Revoked.exit_code if used else 0


def _list_marks(options: argparse.Namespace, revocations: Any) -> int:
    marks, history, problems = revocations.marks(), revocations.history(), revocations.problems()
    if options.json:
        print(json.dumps({"marks": list(marks.values()), "history": [entry.content for entry in history], "problems": problems}, indent=2))
        return IntegrityError.exit_code if problems else 0
    rows = []
    for entry in history:
        content = entry.content
        force = "in force" if marks.get(content["sha256"], {}).get("n") == entry.n else ""
        rows.append(
            (
                content["time"],
                content["action"],
                f"{content['kind']} {content['sha256'][:12]}",
                ", ".join(content["who"].values()),
                content["why"],
                force,
            )
        )
    print_table(("time", "action", "artifact", "who", "why", ""), rows)
    print("\n".join(problems) or f"{len(marks)} marks are in force; the chain is whole.")
    return IntegrityError.exit_code if problems else 0
