"""What the page's API says of a store: graphs, nodes, searches, and the sentence for each wrong question."""

from __future__ import annotations

import pytest

from lfm_tasks.page.sources import sources
from tests.page.conftest import SCRIPT


@pytest.fixture
def get(client, two_dags):
    made = client("ada")
    return lambda path, **query: made.get(f"/lfm/api/{path}", params=query)


def ids(answer):
    assert answer.status_code == 200, answer.text
    return {node["id"] for node in answer.json()["nodes"]}


def test_a_hash_its_start_and_a_run_lead_to_the_same_graph(get, two_dags):
    whole = ids(get("graph", reference=f"sha256:{two_dags['child']}"))
    assert whole == set(two_dags.values())
    assert ids(get("graph", reference=two_dags["child"][:10])) == whole
    merged = get("graph", dag_id="open", run_id="run")
    assert merged.json()["roots"] == [two_dags["merge"]] and ids(merged) == whole
    assert ids(get("graph", dag_id="open", run_id=SCRIPT, task_id="tune", map_index="{MAP_INDEX}", direction="ancestors")) == {
        two_dags["tune"],
        two_dags["base"],
    }


def test_a_limit_keeps_the_nearest_and_says_that_there_is_more(get, two_dags):
    answer = get("graph", reference=two_dags["child"], limit=3).json()
    assert answer["truncated"] and len(answer["nodes"]) == 3
    assert answer["nodes"][0]["id"] == two_dags["child"] and any(node["more"]["ancestors"] for node in answer["nodes"])


def test_a_registered_name_leads_to_what_it_names(get, lineage, two_dags):
    move = {"alias": "champion", "from": None, "to": "1", "artifact_sha256": two_dags["model"], "who": {}, "why": "", "evidence_sha256": ""}
    lineage.move("topics", [move | {"time": "2026-01-01T01:00:00+00:00"}])
    for reference in ("models:/topics@champion", "models:/topics/1"):
        answer = get("graph", reference=reference).json()
        assert answer["roots"] == [two_dags["model"]]
    shown = next(node for node in answer["nodes"] if node["id"] == two_dags["model"])
    assert (shown["label"], shown["aliases"]) == ("topics version 1 (champion)", ["topics@champion"])


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"reference": "models:/topics@champion"}, 404, "Unknown registered model 'topics'"),
        ({"reference": "abcdef012345"}, 404, "is in no record of this store"),
        ({"reference": "../../etc/passwd"}, 404, "names nothing in this store. Give sha256:"),
        ({"reference": ""}, 404, "names nothing in this store"),
        ({"dag_id": "open", "run_id": "none"}, 404, "There is no record of run none of DAG open yet"),
        ({"dag_id": "open", "run_id": "run", "task_id": "x"}, 404, "no record of task x of run run"),
    ],
    ids=str,
)
def test_a_question_without_an_answer_gets_a_sentence(get, query, status, message):
    answer = get("graph", **query)
    assert answer.status_code == status and message in answer.json()["detail"]


@pytest.mark.parametrize(
    "query", [{"reference": "x" * 1025}, {"reference": "x", "limit": 0}, {"reference": "x", "limit": 10**6}, {"direction": "up"}]
)
def test_questions_out_of_bounds_are_refused(get, query):
    assert get("graph", **query).status_code == 422


def test_a_node_says_everything_that_its_record_holds(get, two_dags):
    found = get(f"node/{two_dags['tune']}").json()
    assert found["record"]["config"] == {"text": SCRIPT, "rank": 8}
    assert found["record"]["environment"]["packages"] == {"torch": "2"}
    assert found["links"]["airflow"] == "../dags/open/runs/%3Cscript%3Ealert%28%27x%27%29%3C%2Fscript%3E/tasks/tune"
    assert [entry["name"] for entry in found["inputs"]] == ["model"]
    assert get(f"node/{two_dags['child']}").json()["maker"]["id"] == two_dags["merge"]


def test_a_new_record_appears_without_a_restart(get, lineage, two_dags, monkeypatch):
    monkeypatch.setattr("lfm_tasks.page.sources.REFRESH_SECONDS", 0)
    before = ids(get("graph", reference=two_dags["child"]))
    late = lineage.put("tune", {"model": lineage.commit("model", "late")}, {"model": lineage.commit("model", "later")}, number=7)
    assert late not in before
    assert late in {node["id"] for node in get("search", text="tune").json()["nodes"]}


def test_a_damaged_record_is_named_and_the_others_are_shown(get, lineage, two_dags):
    lineage.store.backend.put_bytes(f"records/{two_dags['secret']}.json", b"{}")
    answer = get("graph", reference=two_dags["model"]).json()
    assert {node["id"] for node in answer["nodes"]} >= {two_dags["tune"], two_dags["merge"]}
    assert any("was changed after it was written" in notice for notice in answer["notices"])


def test_mlflow_away_is_said_and_costs_no_page(client, two_dags, monkeypatch):
    monkeypatch.setenv("LFM_MLFLOW_URI", "http://user:secret@127.0.0.1:9")
    from lfm_tasks.settings import settings

    settings.cache_clear()
    sources.cache_clear()
    found = client("ada").get(f"/lfm/api/node/{two_dags['tune']}").json()
    assert found["notices"] == ["MLflow at http://127.0.0.1:9 does not answer: links to it may lead nowhere."]
    assert found["record"]["step"] == "tune" and "mlflow" not in found["links"]
