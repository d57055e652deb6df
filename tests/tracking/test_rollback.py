"""Rollback through the ledger, and what was decided about a model before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, Conflict, IntegrityError, InvalidInput, ReferenceRefused
from lfm_tasks.promotion.config import RollbackConfig
from lfm_tasks.promotion.rollback import run, version_of
from lfm_tasks.step import Input, Verdict
from tests.tracking.tracking_records import make_record


@pytest.fixture
def moves(tracker, commit):
    """Versions 1, 2 and 3 were champion in turn."""

    def promote(name, expected):
        artifact = commit("model", name)
        given = Input(f"sha256:{artifact.sha256}", "model", artifact.sha256, Path("."))
        return tracker.registry.promote("m", "champion", given, expected, f"because {name}", "e" * 64)

    return [promote(name, expected) for name, expected in (("a", None), ("b", "1"), ("c", "2"))]


def roll_back(tracker, version, **config):
    known = {"1": "a", "2": "b", "3": "c"}
    name = config.pop("is_now", known.get(str(version), "a"))
    sha256 = next(entry.content["artifact_sha256"] for entry in tracker.ledger.entries("m") if entry.content["why"] == f"because {name}")
    values = {"reason": "Complaints.", "dry_run": False, **config}
    given = {"model": Input(f"models:/m/{version}", "model", sha256, Path("."), version=str(version))}
    return run(parse_config(RollbackConfig, values), given, SimpleNamespace(registry=tracker.registry, log=lambda line: None)).summary


def test_the_alias_goes_back_and_the_entry_it_returns_to_is_the_evidence(tracker, moves):
    done = roll_back(tracker, 1)
    assert (done["moved"], done["version"], done["previous"], done["returns_to"], done["entry"]) == (True, "1", "3", 1, 4)
    last = tracker.ledger.entries("m")[-1].content
    assert (last["evidence_sha256"], last["rollback_to_entry"], last["why"]) == (moves[0].entry_sha256, 1, "Complaints.")
    assert last["artifact_sha256"] == moves[0].address
    assert tracker.registry.aliased("m", "champion") == ("1", moves[0].address)
    assert tracker.registry.verify("m") == []


def test_a_dry_run_moves_nothing_and_says_what_would_move(tracker, moves):
    done = roll_back(tracker, 2, dry_run=True)
    assert (done["dry_run"], done["previous"], done["version"], done["returns_to"]) == (True, "3", "2", 2)
    assert tracker.registry.aliased("m", "champion")[0] == "3" and len(tracker.ledger.entries("m")) == 3


def test_doing_it_twice_is_once_and_forward_again_is_a_rollback_too(tracker, moves):
    roll_back(tracker, 1)
    assert roll_back(tracker, 1)["moved"] is False
    assert len(tracker.ledger.entries("m")) == 4
    assert roll_back(tracker, 3)["returns_to"] == 3
    assert roll_back(tracker, 1)["returns_to"] == 4, "the last move to a version is the one that it returns to"


def test_a_rollback_whose_process_died_is_finished_by_the_retry(tracker, moves, monkeypatch):
    monkeypatch.setattr(type(tracker.registry), "_finish", lambda self, entry: (_ for _ in ()).throw(RuntimeError("died")))
    with pytest.raises(RuntimeError):
        roll_back(tracker, 1)
    monkeypatch.undo()
    assert tracker.registry.aliased("m", "champion")[0] == "3"
    assert roll_back(tracker, 1)["moved"] is True
    assert tracker.registry.aliased("m", "champion")[0] == "1" and len(tracker.ledger.entries("m")) == 4
    assert tracker.registry.verify("m") == []


def test_who_moved_the_alias_meanwhile_is_named(tracker, moves):
    entry = tracker.registry.known_move("m", "champion", "1")
    with pytest.raises(Conflict, match="names version 3, not version 2 as expected; nothing was moved. It was moved at .* .because c"):
        tracker.registry.rollback("m", "champion", entry, "2", "x")


def test_versions_that_the_ledger_does_not_know_are_refused(tracker, moves):
    with pytest.raises(ReferenceRefused, match="Unknown version in the ledger of 'champion' of 'm' '9'.*Allowed: 1, 2, 3"):
        roll_back(tracker, 9)
    with pytest.raises(ReferenceRefused, match="Allowed: none"):
        roll_back(tracker, 1, alias="staging")
    with pytest.raises(InvalidInput, match="A rollback goes to a version of a registered model, models:/NAME/VERSION; sha256:"):
        version_of(Input("sha256:" + "a" * 64, "model", "a" * 64, Path(".")))


def test_a_version_that_is_another_model_than_the_ledger_says_is_refused(tracker, moves):
    with pytest.raises(IntegrityError, match="Version 1 of m is sha256:.* now; the ledger's entry 1 had put sha256:"):
        roll_back(tracker, 1, is_now="b")
    assert len(tracker.ledger.entries("m")) == 3


def test_a_rollback_says_why():
    with pytest.raises(ConfigError, match="A rollback says why: set the reason"):
        parse_config(RollbackConfig, {"dry_run": False})


def test_a_verdict_is_about_the_same_model_and_data_and_a_time_out_is_none(tracker, commit, store):
    model, other = commit("model", "a"), commit("model", "b")
    data = "d" * 64
    decision = commit("report", "decision", {"decision.json": f'{{"dataset_sha256": "{data}"}}'})

    def promoted(given, number, **summary):
        inputs = {"model": given, "decision": decision}
        record = make_record("promote", inputs, {}, number=number, summary={"outcome": "ask", "moved": False, **summary})
        address = store.put_record(record)
        tracker.log_record(address, record)
        return address

    ask = tracker.registry.verdict
    promoted(model, 1, timed_out=True)
    promoted(model, 2, dry_run=True)
    assert ask(model.sha256, data) is None
    address = promoted(model, 3)
    assert ask(model.sha256, data) == Verdict("ask", False, address, "2026-01-01T00:03:30+00:00")
    assert ask(other.sha256, data) is None and ask(model.sha256, "e" * 64) is None
    later = promoted(model, 4, outcome="promote", moved=True)
    assert ask(model.sha256, data).record == later
