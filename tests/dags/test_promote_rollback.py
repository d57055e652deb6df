"""``dag.test()`` of lfm_sweep, lfm_evaluate, lfm_promote and lfm_rollback on a toy model, one after the other as an operator would."""

from __future__ import annotations

import json

import pytest

from lfm_tasks.artifacts.store import Store
from lfm_tasks.proposals import proposals
from lfm_tasks.settings import settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.lineage import Graph
from lfm_tasks.tracking.tracker import Tracker
from tests.dags.conftest import DECISION, of_task
from tests.toys import make_llama

pytestmark = pytest.mark.slow


def registry():
    return Tracker.open(settings(), Store.open(settings().store)).registry


def test_a_sweep_chooses_on_validation_and_its_best_is_promoted_and_rolled_back(run_dag, toy):
    """One learning rate diverges; the sweep goes on without it."""
    grid = {"sweep_grid": {"learning_rate": [1e-5, 0.01, 10.0], "epochs": [6]}, "tune_method": "full", "tune_max_grad_norm": 0.0}
    state, states, records = run_dag("lfm_sweep", {**toy, **grid})
    assert state == "success", states
    selected = of_task(records, "select")
    assert selected["summary"]["best"]["settings"] == {"learning_rate": 0.01, "epochs": 6}
    reports = {r["airflow"]["map_index"]: r for r in records if r["airflow"]["task_id"] == "candidate.evaluate"}
    assert {r["config"]["split"] for r in reports.values()} == {"validation"}
    best = of_task(records, "evaluate_best")
    assert best["config"]["split"] == "test" and sum(r["config"].get("split") == "test" for r in records) == 1
    model = selected["summary"]["best"]["model_sha256"]
    assert best["inputs"]["model"]["sha256"] == model
    graph = Graph.of(Store.open(settings().store))
    losers = {r["inputs"]["model"]["sha256"] for r in reports.values()} - {model}
    assert losers and losers <= graph.ancestors(selected["outputs"]["selection"]["sha256"])

    promote = {**toy, **DECISION, "model": f"sha256:{model}", "baseline": toy["model"]}
    state, states, records = run_dag("lfm_promote", promote)
    assert state == "success" and states["ask"] == states["approve"] == "skipped"
    assert of_task(records, "promote")["summary"]["version"] == "1"
    assert "models:/toy@champion" in proposals(settings(), "models") and proposals(settings(), "names") == ["toy"]

    other = sorted(losers)[0]
    force = {"gate_min_improvement": 0.0, "model": toy["model"], "baseline": None}
    state, states, records = run_dag("lfm_promote", {**promote, **force})
    assert state == "success" and of_task(records, "promote")["summary"]["moved"] is False, "the base model is worse"
    assert registry().aliased("toy", "champion") == ("1", model)
    assert other != model


def test_a_rollback_says_what_would_move_then_moves_and_is_in_the_ledger(run_dag, toy, tmp_path):
    store = Store.open(settings().store)
    tracker = Tracker.open(settings(), store)
    for version in (1, 2):
        make_llama(tmp_path / f"model{version}", seed=version)
        made = store.commit(tmp_path / f"model{version}", "model")
        given = Input(f"sha256:{made.sha256}", "model", made.sha256, settings().home)
        tracker.registry.promote("toy0", "champion", given, None if version == 1 else "1", "by hand", "e" * 64)

    rollback = {"model_name": "toy0", "version": 1}
    state, _, records = run_dag("lfm_rollback", rollback)
    assert state == "success" and of_task(records, "rollback")["summary"]["dry_run"] is True
    assert registry().aliased("toy0", "champion")[0] == "2"

    state, _, records = run_dag("lfm_rollback", {**rollback, "rollback_dry_run": False, "rollback_reason": "Complaints."})
    assert state == "success"
    entries = tracker.ledger.entries("toy0")
    assert [entry.content["to"] for entry in entries] == ["1", "2", "1"]
    assert entries[-1].content["evidence_sha256"] == entries[0].sha256 and entries[-1].content["why"] == "Complaints."
    assert registry().aliased("toy0", "champion")[0] == "1" and registry().verify("toy0") == []

    state, states, records = run_dag("lfm_rollback", {**rollback, "version": 7})
    assert state == "failed" and records == []


def test_one_model_of_the_form_is_evaluated(run_dag, toy):
    state, states, records = run_dag("lfm_evaluate", toy)
    assert state == "success" and states["evaluate[0]"] == "success"
    assert "choice/accuracy" in records[-1]["metrics"]


def test_without_a_model_the_form_says_what_is_missing(run_dag, toy, capfd, caplog):
    state, states, _ = run_dag("lfm_evaluate", {"model": None, "data": None})
    output = capfd.readouterr()
    assert state == "failed" and states["models"] == "failed"
    assert "Give a model and data to evaluate it on" in output.out + output.err + caplog.text


def test_candidates_that_cannot_be_tuned_stop_the_sweep_before_anything_runs(run_dag, toy, capfd, caplog):
    configs = [{"method": "lora", "rank": 4}, {"method": "bitfit", "rank": 4}, {"learning_rat": 1}]
    state, states, records = run_dag("lfm_sweep", {**toy, "sweep_grid": {}, "sweep_configs": configs})
    output = capfd.readouterr()
    text = output.out + output.err + caplog.text
    assert state == "failed" and records == []
    assert "2 of 3 candidates cannot be tuned; nothing was started" in text
    assert "Candidate 2" in text and "Unknown option 'rank'" in text and "Allowed: norms" in text
    assert "Candidate 3" in text and "Did you mean 'learning_rate'" in text
    assert json.dumps(states).count("upstream_failed") >= 3
