"""The history of a registered model: every move of its aliases, and every decision that moved none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ReferenceRefused, unknown_name
from lfm_tasks.page.views import View
from lfm_tasks.tracking.ledger import FIRST

Record = Mapping[str, Any]


def models(view: View) -> list[dict[str, Any]]:
    """Registered models with what their aliases name, the one that was moved last first."""
    snapshot = view.index.snapshot
    found = [
        {
            "name": name,
            "moves": len(moves),
            "last": moves[-1]["time"],
            "aliases": {alias: {"version": version, "sha256": sha256} for alias, (version, sha256) in snapshot.aliases[name].items()},
        }
        for name, moves in snapshot.moves.items()
    ]
    return sorted(found, key=lambda model: model["last"], reverse=True)


def timeline(view: View, name: str) -> dict[str, Any]:
    """``{"name", "aliases", "events", "problems"}``, the newest event first. Raises :class:`ReferenceRefused`."""
    known = {model["name"]: model for model in models(view)}
    decided = _promotions(view, name)
    if name not in known and not decided:
        raise ReferenceRefused(unknown_name("registered model", name, known))
    moves = view.index.snapshot.moves.get(name, [])
    by_run = {record["mlflow"].get("run_id"): address for address, record in decided.items()}
    events = [*_moved(view, moves, by_run), *(_unmoved(view, address, record) for address, record in decided.items() if _stayed(record))]
    aliases = known[name]["aliases"] if name in known else {}
    return {"name": name, "aliases": aliases, "events": sorted(events, key=lambda e: e["time"], reverse=True), "problems": broken(moves)}


def broken(moves: list[Mapping[str, Any]]) -> list[str]:
    """Where the chain of moves, as the store holds it, does not hold together. `lfm ledger --verify` also asks the database."""
    found, previous = [], FIRST
    for place, move in enumerate(moves, start=1):
        if move["n"] != place or move["prev_sha256"] != previous:
            found.append(f"Entry {move['n']} does not follow the entry before it: one was changed, removed or replaced.")
        previous = sha256_bytes(canonical_json(move))
    return found


def _moved(view: View, moves: list[Mapping[str, Any]], by_run: Mapping[str | None, str]) -> Iterator[dict[str, Any]]:
    for move in moves:
        returns_to = move.get("rollback_to_entry")
        event = {name: move[name] for name in ("n", "time", "alias", "from", "to")}
        event["type"] = "rollback" if returns_to else "promotion"
        event["artifact"] = _artifact(view, move["artifact_sha256"])
        if not view.may_read_move(move):
            yield event | {"restricted": True}
            continue
        record = by_run.get(move["who"].get("run_id"))
        yield event | {
            "who": {key.removeprefix("airflow."): value for key, value in move["who"].items() if key.startswith("airflow.")},
            "why": move["why"],
            "evidence": None if returns_to else _artifact(view, move["evidence_sha256"]),
            "returns_to": returns_to,
            "record": record,
            "answer": _answer(view, view.index.graph.records[record]) if record else None,
        }


def _unmoved(view: View, address: str, record: Record) -> dict[str, Any]:
    """A promotion that moved nothing: the gate or a person said no, nobody answered in time, or it was a dry run."""
    summary, answer, airflow = record["summary"], _answer(view, record), record.get("airflow") or {}
    return {
        "type": _refusal(summary, answer),
        "time": record["finished"],
        "alias": summary.get("alias"),
        "from": summary.get("previous"),
        "to": summary.get("version"),
        "artifact": _artifact(view, record["inputs"]["model"]["sha256"]) if "model" in record["inputs"] else None,
        "who": {name: airflow[name] for name in ("user", "dag_id", "run_id", "task_id") if airflow.get(name)},
        "why": " ".join(str(reason) for reason in summary.get("reasons", ())),
        "evidence": _artifact(view, record["inputs"]["decision"]["sha256"]) if "decision" in record["inputs"] else None,
        "record": address,
        "answer": answer,
    }


def _refusal(summary: Mapping[str, Any], answer: Mapping[str, Any] | None) -> str:
    if summary.get("dry_run"):
        return "dry run"
    if summary.get("outcome") != "reject" and answer is not None:
        return "timed out" if answer["timed_out"] else "rejected"
    return "not decided" if summary.get("outcome") == "ask" else "rejected"


def _promotions(view: View, name: str) -> dict[str, Record]:
    """Records of steps that move aliases of ``name``, as far as the reader may see them."""
    records = view.index.graph.records.items()
    return {
        address: record
        for address, record in records
        if record["step"] in ("promote", "rollback") and record["summary"].get("model_name") == name and view.may_read_record(address)
    }


def _stayed(record: Record) -> bool:
    """Not so where the alias was where it should go already: then nothing was decided."""
    summary = record["summary"]
    return not summary.get("moved") and (record["step"] == "promote" or bool(summary.get("dry_run")))


def _answer(view: View, record: Record) -> dict[str, Any] | None:
    """What a person answered, or that none did: the summary of the step that asked."""
    given = record["inputs"].get("answer")
    maker = view.index.graph.maker(given["sha256"]) if given else None
    if maker is None or not view.may_read_record(maker):
        return None
    return dict(view.index.graph.records[maker]["summary"]) | {"record": maker}


def _artifact(view: View, address: str | None) -> dict[str, Any] | None:
    """In brief; of one that no record names, its hash alone."""
    if address is None:
        return None
    if address not in view.index.graph.artifacts:
        return {"id": address, "short": address[:12], "type": "artifact", "kind": None, "restricted": True}
    return view.briefly(address)
