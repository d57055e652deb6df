"""The DAG lfm_distill through Airflow: a student cut from a toy teacher, recorded signals, a baseline, the verdict, promotion."""

from __future__ import annotations

import pytest

from tests.dags.conftest import DECISION, of_task
from tests.toys import make_llama

QUICK = {"distill_max_steps": 3, "evaluate_bootstrap_samples": 100, "judge_student_bootstrap_samples": 100, "judge_student_rows": 4}


@pytest.fixture
def conf(toy, tmp_path):
    teacher = toy.pop("model")
    make_llama(tmp_path / "model", layers=4)
    return {**toy, **DECISION, **QUICK, "teacher": teacher, "general": None, "cut_student_depth": 2, "distill_learning_rate": 0.01}


@pytest.mark.slow
def test_a_student_is_cut_taught_by_what_was_recorded_and_judged(run_dag, conf, tmp_path):
    conf |= {"record": True, "judge_student_min_retained": 0.0, "judge_student_min_speedup": 0.0}
    state, states, records = run_dag("lfm_distill", conf)
    assert state == "success", states
    signals = of_task(records, "record")["outputs"]["signals"]["sha256"]
    distill, baseline = of_task(records, "distill"), of_task(records, "baseline")
    assert distill["inputs"]["signals.0"]["sha256"] == signals and "teachers.0" not in distill["inputs"]
    assert baseline["config"]["alpha"] == 0 and set(baseline["inputs"]) == {"student", "dataset"}
    student = of_task(records, "cut")["outputs"]["model"]["sha256"]
    assert {one["inputs"]["student"]["sha256"] for one in (distill, baseline)} == {student}
    assert of_task(records, "evaluate_before")["inputs"]["model"]["sha256"] == student
    champion, judged = of_task(records, "evaluate_champion"), of_task(records, "judge")
    assert champion["inputs"]["model"]["sha256"] == baseline["outputs"]["model"]["sha256"] and champion["cache"]["hit"]
    assert {"retained", "retained_baseline", "speedup"} <= judged["metrics"].keys() and judged["metrics"]["share_of_parameters"] < 1
    assert of_task(records, "gate")["inputs"]["champion"]["sha256"] == champion["outputs"]["report"]["sha256"]
