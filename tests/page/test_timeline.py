"""The history of a registered model: moves, rollbacks, refusals and time-outs are told apart, and a broken chain is seen."""

from __future__ import annotations

import pytest

WHO = {"run_id": "a" * 32, "airflow.dag_id": "open", "airflow.run_id": "run", "airflow.user": "ada"}


def move(to, before, model, evidence, day, **changes):
    entry = {"alias": "champion", "from": before, "to": to, "artifact_sha256": model, "evidence_sha256": evidence}
    return entry | {"who": WHO, "why": f"because {to}", "time": f"2026-02-0{day}T00:00:00+00:00"} | changes


@pytest.fixture
def history(lineage, two_dags):
    decision, answer = lineage.commit("report", "decision"), lineage.commit("report", "answer")
    model = lineage.commit("model", "third")
    lineage.put("approve", {"decision": decision}, {"answer": answer}, number=4, summary={"timed_out": True, "chosen": "reject", "by": ""})
    summary = {"moved": False, "outcome": "ask", "model_name": "topics", "alias": "champion", "reasons": ["unsure"]}
    late = {"finished": "2026-02-04T00:00:00+00:00", "summary": summary}
    lineage.put("promote", {"model": model, "decision": decision, "answer": answer}, {}, number=5, **late)
    rejected = {"finished": "2026-02-05T00:00:00+00:00", "summary": summary | {"outcome": "reject", "reasons": ["worse"]}}
    lineage.put("promote", {"model": model, "decision": decision}, {}, number=6, **rejected)
    evidence = decision.sha256
    lineage.move(
        "topics",
        [
            move("1", None, two_dags["base"], evidence, 1),
            move("2", "1", two_dags["model"], evidence, 2, who=WHO | {"airflow.dag_id": "secret"}),
            move("1", "2", two_dags["base"], "e" * 64, 3, rollback_to_entry=1),
        ],
    )
    return two_dags


def test_each_event_says_what_it_was(client, history):
    found = client("ada").get("/lfm/api/models/topics").json()
    assert [(event["type"], event["from"], event["to"]) for event in found["events"]] == [
        ("rejected", None, None),
        ("timed out", None, None),
        ("rollback", "2", "1"),
        ("promotion", "1", "2"),
        ("promotion", None, "1"),
    ]
    back = found["events"][2]
    assert (back["who"]["user"], back["why"], back["artifact"]["id"]) == ("ada", "because 1", history["base"])
    assert (back["evidence"], back["returns_to"]) == (None, 1)
    assert found["events"][3]["evidence"]["kind"] == "report"
    assert found["events"][1]["answer"]["timed_out"] is True
    assert found["aliases"] == {"champion": {"version": "1", "sha256": history["base"]}}
    assert found["problems"] == []


def test_a_move_by_a_dag_that_may_not_be_read_shows_that_it_happened_alone(client, history):
    events = client("vic").get("/lfm/api/models/topics").json()["events"]
    hidden = next(event for event in events if event.get("restricted"))
    assert (hidden["from"], hidden["to"]) == ("1", "2")
    assert not {"who", "why", "evidence", "record"} & hidden.keys()


@pytest.mark.parametrize("n", [1, 2])
def test_an_edited_entry_breaks_the_chain(client, history, lineage, n):
    key = f"ledger/topics/{n}.json"
    edited = lineage.store.backend.get_bytes(key).replace(b"because", b"Because")
    lineage.store.backend.put_bytes(key, edited)
    assert client("ada").get("/lfm/api/models/topics").json()["problems"] == [
        f"Entry {n + 1} does not follow the entry before it: one was changed, removed or replaced."
    ]


def test_a_removed_entry_breaks_the_chain(client, history, lineage):
    lineage.store.backend.delete("ledger/topics/1.json")
    assert len(client("ada").get("/lfm/api/models/topics").json()["problems"]) == 2


def test_an_unknown_model_is_refused_with_the_known_ones(client, history):
    answer = client("ada").get("/lfm/api/models/topic")
    assert answer.status_code == 404 and "Did you mean 'topics'" in answer.json()["detail"]


def test_models_are_listed_with_what_their_aliases_name(client, history):
    assert client("ada").get("/lfm/api/models").json()["models"] == [
        {
            "name": "topics",
            "moves": 3,
            "last": "2026-02-03T00:00:00+00:00",
            "aliases": {"champion": {"version": "1", "sha256": history["base"]}},
        }
    ]
