"""The DAG lfm_merge through Airflow: two toy classifiers of other classes become one, measured on both tasks."""

from __future__ import annotations

import pytest

from lfm_tasks.errors import ConfigError
from lfm_tasks.operators.merging import evaluations, gates, merges, methods, mixtures, sources, statistics_kinds, task_names
from tests.dags.conftest import of_task
from tests.experts import make_experts


def test_a_merge_of_one_expert_with_weight_1_is_that_expert_on_its_task(run_dag, tmp_path):
    weights = {"merge_method": "linear", "merge_weights": [1.0, 0.0], "merge_normalize": False}
    conf = {**make_experts(tmp_path), **weights, "also": ["regmean", "expo"], "mixtures": ["smile"], "statistics_max_rows": 16}
    state, states, records = run_dag("lfm_merge", conf)
    assert state == "success", states
    found = of_task(records, "compare")["summary"]
    by_name = {one["name"]: one for one in found["subjects"]}
    assert list(by_name) == ["base", "topics.jsonl expert", "moods.jsonl expert", "linear", "regmean", "smile"]
    assert by_name["linear"]["tasks"]["topics.jsonl"] == by_name["topics.jsonl expert"]["tasks"]["topics.jsonl"]
    assert by_name["linear"]["cpu_seconds"] > 0
    assert by_name["smile"]["extra_parameters"] > 0
    assert any(by_name[name]["on_front"] for name in ("linear", "regmean", "smile"))
    assert states["merge[2]"] == "failed"  # expo takes one model: it is left out, the others are measured
    assert sum(record["step"] == "gate" for record in records) == 2


def test_each_model_has_a_data_set_and_there_are_two():
    params = {"models": ["a", "b"], "data": ["x/p", "y/p"], "base": None, "heads": True}
    assert sources(params) == [{"data": "x/p", "model": "a"}, {"data": "y/p", "model": "b"}]
    with pytest.raises(ConfigError, match="data names 1 data sets for 2 models"):
        sources({**params, "data": ["x"]})
    with pytest.raises(ConfigError, match="models names 1 model. Give the two or more"):
        sources({**params, "models": ["a"]})
    with pytest.raises(ConfigError, match="models names one twice: a, a"):
        sources({**params, "models": ["a", "a"]})
    assert task_names(["starter://tweets", "file:///a/rows", "file:///b/rows"]) == ["tweets", "2 rows", "3 rows"]


def test_everybody_but_the_tasks_own_expert_borrows_its_head():
    params = {"models": ["a", "b"], "data": ["x", "y"], "base": "z", "champion": None, "heads": True}
    cells, inputs = evaluations(params, ["X", "Y"], {"ties": "m"})
    assert [cell["subject"] for cell in cells] == ["base", "x expert", "y expert", "ties"] * 2
    assert inputs[:4] == [
        {"model": "z", "dataset": "X", "head": "a"},
        {"model": "a", "dataset": "X"},
        {"model": "b", "dataset": "X", "head": "a"},
        {"model": "m", "dataset": "X", "head": "a"},
    ]
    assert all("head" not in one for one in evaluations({**params, "heads": False}, ["X", "Y"], {"ties": "m"})[1])


def test_each_method_is_merged_by_once_the_others_with_their_defaults():
    params = {"models": ["a", "b"], "base": None, "merge_method": "ties", "also": ["regmean", "adamerging"], "mixtures": []}
    inputs = {"models": ["a", "b"]}
    assert merges(params, {"datasets": ["X", "Y"], "gram": ["G", "H"]}) == [
        {"config": {}, "inputs": inputs},
        {"config": {"method": "regmean", "options": {}}, "inputs": inputs | {"statistics": ["G", "H"]}},
        {"config": {"method": "adamerging", "options": {}}, "inputs": inputs | {"datasets": ["X", "Y"]}},
    ]
    assert statistics_kinds(params) == ["gram"]
    with pytest.raises(ConfigError, match="greedy_soup: for models of one task"):
        methods({**params, "also": ["greedy_soup"]})
    with pytest.raises(ConfigError, match="mixtures: smile need the base"):
        mixtures({**params, "mixtures": ["smile"]})
    with pytest.raises(ConfigError, match="also: Unknown method 'lienar'. Did you mean 'linear'"):
        methods({**params, "also": ["lienar"]})
    with pytest.raises(ConfigError, match="also names a method twice, or the one that the form has: ties, ties"):
        methods({**params, "also": ["ties"]})


def test_the_gate_is_asked_on_each_task_about_the_champion_else_the_base():
    cells = [{"subject": name, "task": task} for task in ("x", "y") for name in ("base", "champion", "x expert", "linear", "ties")]
    pairs = gates(cells, list("abcdefghij"), "ties")
    assert pairs == [{"challenger": "e", "champion": "b"}, {"challenger": "j", "champion": "g"}]
    without = [place for place, cell in enumerate(cells) if cell["subject"] != "champion"]
    assert gates([cells[i] for i in without], ["abcdefghij"[i] for i in without], "ties")[0] == {"challenger": "e", "champion": "a"}
    assert gates([cells[4]], ["e"], "ties") == []
