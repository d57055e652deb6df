"""What a distillation is given: a cut or a named student, teachers or what was recorded of them."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.operators import CutStudentOperator, DistillOperator, EvaluateOperator, RecordSignalsOperator
from lfm_tasks.steps import STEPS

REFERENCES = {"teachers.0": "{teacher}", "student": "{student}"}
FORM = {"teacher": "starter://t", "student": None, "more": None}


def given(inputs, **params):
    operator = DistillOperator(task_id="distill", references=REFERENCES, also="more", inputs={"dataset": "sha256:d", **inputs})
    return operator._references(STEPS["distill"], FORM | params, None)


def test_a_student_that_is_named_learns_and_else_the_one_that_was_cut():
    assert given({"student": "sha256:cut"})["student"] == "sha256:cut"
    assert given({"student": ""}, student="starter://s")["student"] == ["starter://s"]


def test_teachers_are_asked_in_order_unless_signals_were_recorded_of_the_first():
    student = {"student": "sha256:s"}
    assert given(student | {"signals.0": ""}) == {"dataset": "sha256:d", "student": "sha256:s", "teachers.0": ["starter://t"]}
    both = given(student, more=["starter://a", "starter://b"])
    assert [both[f"teachers.{place}"] for place in range(3)] == [["starter://t"], "starter://a", "starter://b"]
    recorded = given(student | {"signals.0": "sha256:r"}, more=["starter://a"])
    assert (recorded["signals.0"], recorded["teachers.0"]) == ("sha256:r", "starter://a") and "teachers.1" not in recorded


def test_what_was_made_is_the_last_choice_after_what_is_referred_to():
    operator = EvaluateOperator(
        task_id="evaluate", references={"model": "models:/{name}@champion"}, inputs={"model": "sha256:b", "dataset": "sha256:d"}
    )
    assert operator._references(STEPS["evaluate"], {"name": "x"}, None)["model"] == ["models:/x@champion", "sha256:b"]


def test_nothing_is_cut_for_a_named_student_and_nothing_recorded_unasked():
    with pytest.raises(AirflowSkipException, match="The student is starter://s"):
        CutStudentOperator(task_id="cut", unless="student").job({"params": FORM | {"student": "starter://s"}})
    with pytest.raises(AirflowSkipException, match="'record' is off"):
        RecordSignalsOperator(task_id="record", when="record").job({"params": {"record": False}})
