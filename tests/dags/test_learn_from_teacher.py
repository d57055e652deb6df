"""``dag.test()`` of lfm_learn_from_teacher, against a real local server: a student learns in each way, and nobody sees the key."""

from __future__ import annotations

import json
import math

import pytest

from tests.dags.conftest import DECISION, TUNING, WORDS, of_task
from tests.teacher_server import Fault, TeacherServer

pytestmark = pytest.mark.slow
KEY = "sesame-open-77"


def topic(text):
    return next(label for label, word in WORDS.items() if word in text)


@pytest.fixture
def server(monkeypatch):
    """A teacher that knows the topics, and does not answer each seventh request."""
    with TeacherServer(fault=lambda count, text: Fault(500) if count % 7 == 0 else None, answer=topic, key=KEY) as started:
        monkeypatch.setenv("LFM_TEACHER_ENDPOINTS", started.url)
        monkeypatch.setenv("AIRFLOW_CONN_TEACHER", json.dumps({"conn_type": "http", "host": "127.0.0.1", "password": KEY}))
        yield started


def form(toy, server, **more):
    asked = {"endpoint": server.url, "model": "oracle", "key_connection": "teacher", "first_wait": 0.0, "concurrency": 8}
    asked |= {"teacher_template": "Which topic? {prompt}"} | more
    return {**toy, **TUNING, **DECISION, "general": None, **{f"ask_teacher_{name}": value for name, value in asked.items()}}


def gain(records):
    before, after = (of_task(records, task)["metrics"]["choice/accuracy"] for task in ("evaluate_base", "evaluate_challenger"))
    return after - before


def test_a_student_learns_from_the_answers_and_is_promoted(run_dag, toy, server, home, capfd):
    state, states, records = run_dag("lfm_learn_from_teacher", form(toy, server))
    assert state == "success" and states["promote"] == "success"
    assert gain(records) > 0.2 and states["distill"] == states["write_rationales"] == "skipped"
    assert of_task(records, "gate")["summary"]["outcome"] == "promote"
    prepared, asked = of_task(records, "prepare"), of_task(records, "ask_teacher")
    training = prepared["summary"]["rows"]["train"]
    assert asked["metrics"]["asked/rows"] == training == sum(server.answered.values())
    assert asked["metrics"]["asked/requests"] == len(server.bodies) and asked["metrics"]["asked/server_error"] > 10
    assert asked["config"]["options"]["key_connection"] == "teacher"
    rows = of_task(records, "prepare_answers")["summary"]["rows"]
    assert rows["train"] + rows["validation"] == training and rows["test"] == 0
    said = capfd.readouterr()
    assert KEY not in said.out + said.err
    assert [path for path in home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_a_student_learns_from_how_likely_the_answers_are(run_dag, toy, server):
    """A word is in several of the student's tokens, and one of the teacher's."""
    server.spoken = lambda answer, *_: [(answer, math.log(0.9), {answer: math.log(0.9), "other": math.log(0.05)})]
    distilling = {"learn_from": "log_probabilities", "distill_learning_rate": 0.01, "distill_epochs": 6, "distill_alpha": 0.9}
    conf = form(toy, server, top_logprobs=2) | distilling | {"prepare_completion_template": "{label}"}
    state, states, records = run_dag("lfm_learn_from_teacher", conf)
    assert state == "success" and states["tune"] == states["write_rationales"] == "skipped", states
    assert gain(records) > 0.2 and states["promote"] == "success"
    asked, distill = of_task(records, "ask_teacher"), of_task(records, "distill")
    assert distill["inputs"]["signals.0"]["sha256"] == asked["outputs"]["signals"]["sha256"] and distill["method"] == "alm"
    assert distill["summary"]["rows_without_signals"] == 0 and distill["config"]["temperature"] == 1
    promoted = of_task(records, "promote")["inputs"]["model"]["sha256"]
    assert promoted == distill["outputs"]["model"]["sha256"] == of_task(records, "evaluate_challenger")["inputs"]["model"]["sha256"]


def test_a_student_learns_step_by_step_from_the_reasons_of_right_answers(run_dag, toy, server):
    mistaken = " of day 5\n"

    def answer(text):
        found = topic(text)
        return f"The text speaks of a {WORDS[found]}, which decides it.\nAnswer: {'nothing' if mistaken in text else found}"

    server.answer = answer
    conf = form(toy, server, teacher_template="{prompt} Why? Then write Answer:") | {"learn_from": "rationales", "predict_share": 0.7}
    state, states, records = run_dag("lfm_learn_from_teacher", conf)
    assert state == "success" and states["distill"] == "skipped", states
    assert gain(records) > 0.2
    counts, wrong = of_task(records, "write_rationales")["metrics"], sum(mistaken in text for text in server.answered)
    assert counts["rationales/wrong_answer"] == wrong > 0 and counts["rationales/kept"] == len(server.answered) - wrong
    prepared = of_task(records, "prepare_answers")
    assert prepared["config"]["prompt_template"] == "{prompt}" and prepared["config"]["parts"] == pytest.approx(
        {"predict": 0.7, "explain": 0.3}
    )
    assert prepared["summary"]["rows"]["train"] + prepared["summary"]["rows"]["validation"] == 2 * counts["rationales/kept"]
    assert of_task(records, "tune")["inputs"]["dataset"]["sha256"] == prepared["outputs"]["dataset"]["sha256"]


def test_a_student_that_reasons_first_is_measured_by_the_answer_behind_its_reasons(run_dag, toy, server):
    server.answer = lambda text: f"There is a {WORDS[topic(text)]} in it.\nAnswer: {topic(text)}"
    chains = {"learn_from": "rationales", "write_rationales_method": "chain_of_thought"}
    conf = form(toy, server, teacher_template="{prompt} Why? Then write Answer:", max_new_tokens=32) | chains
    state, states, records = run_dag("lfm_learn_from_teacher", conf)
    assert state == "success" and states["promote"] == "success", states
    for task in ("evaluate_base", "evaluate_champion", "evaluate_challenger"):
        config = of_task(records, task)["config"]
        assert (config["tasks"], config["max_new_tokens"]) == (["generation"], 128) and "answer:" in config["answer_marks"]
    before, after = (of_task(records, task)["metrics"] for task in ("evaluate_base", "evaluate_challenger"))
    assert after["generation/exact_match"] > before["generation/exact_match"] + 0.5 and "choice/accuracy" not in after
    decision = of_task(records, "gate")["summary"]
    assert decision["outcome"] == "promote"
    assert [entry["metric"] for entry in decision["table"] if entry["role"] == "primary"] == ["generation/exact_match"]


def test_log_probabilities_that_are_not_asked_for_are_missed_before_anything_is_paid(run_dag, toy, server, capfd):
    conf = form(toy, server) | {"learn_from": "log_probabilities", "prepare_completion_template": "{label}"}
    state, states, _ = run_dag("lfm_learn_from_teacher", conf)
    said = capfd.readouterr()
    assert (state, states["ask_teacher"], server.bodies) == ("failed", "failed", [])
    assert "ask_teacher_top_logprobs=0 asks for none. Set it to 1 or more" in said.out + said.err
