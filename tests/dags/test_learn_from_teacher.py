"""``dag.test()`` of lfm_learn_from_teacher, against a real local server: the student learns from it, and nobody sees the key."""

from __future__ import annotations

import json

import pytest

from tests.dags.conftest import DECISION, TUNING, WORDS, of_task
from tests.teacher_server import Fault, TeacherServer

pytestmark = pytest.mark.slow
KEY = "sesame-open-77"


@pytest.fixture
def server(monkeypatch):
    """A teacher that knows the topics, and does not answer each seventh request."""
    with TeacherServer(
        fault=lambda count, text: Fault(500) if count % 7 == 0 else None,
        answer=lambda text: next(label for label, word in WORDS.items() if word in text),
        key=KEY,
    ) as started:
        monkeypatch.setenv("LFM_TEACHER_ENDPOINTS", started.url)
        monkeypatch.setenv("AIRFLOW_CONN_TEACHER", json.dumps({"conn_type": "http", "host": "127.0.0.1", "password": KEY}))
        yield started


def form(toy, server, **more):
    asked = {"endpoint": server.url, "model": "oracle", "key_connection": "teacher", "first_wait": 0.0, "concurrency": 8}
    asked |= {"teacher_template": "Which topic? {prompt}"} | more
    return {**toy, **TUNING, **DECISION, "general": None, **{f"ask_teacher_{name}": value for name, value in asked.items()}}


def test_a_student_learns_from_the_answers_and_is_promoted(run_dag, toy, server, home, capfd):
    state, states, records = run_dag("lfm_learn_from_teacher", form(toy, server))
    assert state == "success" and states["promote"] == "success"
    before, after = (of_task(records, task)["metrics"]["choice/accuracy"] for task in ("evaluate_base", "evaluate_challenger"))
    assert after > before + 0.2
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
