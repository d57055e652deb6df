"""``dag.test()`` of lfm_retrain: the second run finds nothing new; a rolled-back model stays back; data or config that changed is new."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import settings
from lfm_tasks.tracking.tracker import Tracker
from tests.dags.conftest import DECISION, TUNING, of_task

pytestmark = pytest.mark.slow
AFTER = ("evaluate_champion", "evaluate_challenger", "gate", "ask", "approve", "promote")


def champion():
    return Tracker.open(settings(), Store.open(settings().store)).registry.aliased("toy", "champion")


def test_the_second_run_is_a_success_that_says_nothing_is_new(run_dag, toy, caplog):
    conf = {**toy, **TUNING, **DECISION, "general": None}
    state, states, records = run_dag("lfm_retrain", conf)
    assert state == "success" and states["promote"] == "success"
    assert of_task(records, "gate")["summary"]["outcome"] == "promote"
    assert champion()[1] == of_task(records, "tune")["outputs"]["model"]["sha256"]

    state, states, records = run_dag("lfm_retrain", conf, logical_date=datetime(2026, 3, 2, tzinfo=UTC))
    assert state == "success"
    assert {states[task] for task in AFTER} == {"skipped"} and states["finish"] == "success"
    novelty = of_task(records, "novelty")
    assert novelty["summary"]["new"] is False and novelty["summary"]["moved"] is True
    assert "Nothing new: data, config and code make the model" in novelty["summary"]["why"]
    assert {r["airflow"]["task_id"] for r in records} == {"prepare", "tune", "novelty"}
    assert of_task(records, "tune")["cache"]["hit"]

    state, states, records = run_dag("lfm_retrain", {**conf, "tune_seed": 1})
    assert state == "success" and of_task(records, "novelty")["summary"] == {"new": True}
    better = of_task(records, "gate")["summary"]["outcome"]
    assert champion()[0] == ("2" if better == "promote" else "1")
