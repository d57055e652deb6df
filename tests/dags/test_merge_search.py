"""The DAG lfm_merge_search through Airflow: a search for each method on two toy classifiers, winners by validation, measured on test."""

from __future__ import annotations

import pytest

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ConfigError
from lfm_tasks.operators.merging import subjects
from lfm_tasks.operators.searching import best_on_validation, searches
from lfm_tasks.settings import settings
from lfm_tasks.tracking.lineage import Graph
from tests.dags.conftest import of_task
from tests.experts import make_experts

PARAMS = {"methods": ["task_arithmetic", "ties"], "search_merge_search": {"scale": [0.3, 1.0], "density": [0.2]}}


@pytest.mark.slow
def test_winners_are_chosen_on_validation_and_measured_on_test(run_dag, tmp_path):
    """Of linear's candidates one is the first expert; expo takes one model and fails."""
    varied = {"weights": [[1.0, 0.0], [0.5, 0.5]], "t": [0.5], "alpha": [0.1]}
    conf = {**make_experts(tmp_path), "methods": ["linear", "expo", "slerp"], "search_merge_search": varied}
    state, states, records = run_dag("lfm_merge_search", conf)
    assert state == "success", states
    assert [states[f"search[{place}]"] for place in range(3)] == ["success", "failed", "success"]
    found = {record["method"]: record for record in records if record["step"] == "search_merge"}
    assert {name: record["metrics"]["trials"] for name, record in found.items()} == {"linear": 2, "slerp": 1}
    reports = [record for record in records if record["step"] == "evaluate"]
    assert len(reports) == 10 and {record["config"]["split"] for record in reports} == {"test"}

    table = of_task(records, "compare")["summary"]
    by_name = {one["name"]: one for one in table["subjects"]}
    assert list(by_name) == ["base", "topics.jsonl expert", "moods.jsonl expert", "linear", "slerp"]
    winners = {name: record["summary"]["best"] for name, record in found.items()}
    assert {name: by_name[name]["validation"] for name in found} == {name: best["score"] for name, best in winners.items()}

    graph, judged = Graph.of(Store.open(settings().store)), found[best_on_validation(winners)]["outputs"]["model"]["sha256"]
    gated = [record for record in records if record["step"] == "gate"]
    assert len(gated) == 2
    for record in gated:
        assert judged in graph.ancestors(record["outputs"]["decision"]["sha256"])
    for record in found.values():
        sources = {one["sha256"] for name, one in record["inputs"].items() if not name.startswith("datasets")}
        assert len(sources) == 3 and sources < graph.ancestors(record["outputs"]["model"]["sha256"])


def test_a_method_varies_the_options_that_it_has():
    assert searches(PARAMS) == [
        {"method": "task_arithmetic", "search": {"scale": [0.3, 1.0]}},
        {"method": "ties", "search": {"scale": [0.3, 1.0], "density": [0.2]}},
    ]


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"methods": []}, ["methods names none. Give one or more"]),
        ({"methods": ["ties", "ties"]}, ["methods names one twice: ties, ties"]),
        ({"methods": ["greedy_soup"]}, ["methods: Unknown method 'greedy_soup'"]),
        ({"search_merge_search": {"scal": [1.0]}}, ["search: Unknown option of task_arithmetic, ties 'scal'. Did you mean 'scale'"]),
        (
            {"search_merge_search": {"density": [0.2]}},
            ["1 of 2 methods cannot be searched; nothing was started", "task_arithmetic: ", "scale"],
        ),
        ({"search_merge_strategy": "cma"}, ["2 of 2", "CMA-ES needs bounds for scale", "ties: "]),
        ({"search_merge_trials": 1}, ["The grid has 2 combinations, but trials=1"]),
    ],
    ids=str,
)
def test_every_method_that_cannot_be_searched_is_named_before_anything_runs(change, messages):
    with pytest.raises(ConfigError) as refused:
        searches(PARAMS | change)
    assert all(message in str(refused.value) for message in messages), refused.value


def test_the_best_on_validation_is_judged_of_equals_by_the_other_measure_then_the_first():
    def winner(score, tie_break):
        return {"score": score, "tie_break": tie_break}

    assert best_on_validation({"a": winner(0.5, -0.1), "b": winner(0.6, -0.9)}) == "b"
    assert best_on_validation({"a": winner(0.5, -0.2), "b": winner(0.5, -0.1), "c": winner(0.5, -0.1)}) == "b"


def test_the_table_says_how_a_winner_did_on_validation():
    (shown,) = subjects([{"subject": "ties", "task": "x"}], {"ties": {"best_score": 0.8, "cpu_seconds": 1.0, "default_score": 0.5}})
    assert shown == {"name": "ties", "role": "result", "cpu_seconds": 1.0, "validation": 0.8}


def test_the_form_has_the_search_and_no_split(dagbag):
    params = dagbag.dags["lfm_merge_search"].params
    assert params["methods"] == ["task_arithmetic", "ties"] and "greedy_soup" not in params.get_param("methods").schema["examples"]
    assert {"search_merge_strategy", "search_merge_trials", "search_merge_seed", "search_merge_score_rows"} <= set(params)
    assert not {"evaluate_split", "search_merge_method", "search_merge_options"} & set(params)
    assert searches(params.dump())[0]["method"] == "task_arithmetic"
