"""A teacher's key: the password of the connection that the config names, for the endpoint's host alone."""

from __future__ import annotations

import json

import pytest

from lfm_tasks.errors import ConfigError
from lfm_tasks.operators import AskTeacherOperator
from lfm_tasks.operators.connections import teacher_key
from lfm_tasks.runner.job import Job


@pytest.fixture(autouse=True)
def connections(monkeypatch):
    for name, host in (("TEACHER", "https://api.example.com"), ("BARE", "api.example.com"), ("DATABASE", "db")):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps({"conn_type": "http", "host": host, "password": f"of {name}"}))


@pytest.mark.parametrize("name", ["teacher", "bare"])
def test_the_password_goes_to_the_steps_environment(name):
    assert teacher_key(name, "https://api.example.com:443/v1") == {"LFM_TEACHER_API_KEY": f"of {name.upper()}"}
    job = Job(step="ask_teacher", config={"options": {"endpoint": "https://api.example.com/v1", "key_connection": name}})
    assert AskTeacherOperator(task_id="ask").environment(job) == {"LFM_TEACHER_API_KEY": f"of {name.upper()}"}


def test_without_a_connection_nothing_is_added():
    job = Job(step="ask_teacher", config={"options": {"endpoint": "https://api.example.com/v1", "key_connection": ""}})
    assert AskTeacherOperator(task_id="ask").environment(job) == {}


@pytest.mark.parametrize("endpoint", ["https://evil.org/v1", "https://api.example.com.evil.org/v1", "https://db.example.com/v1"])
def test_the_password_of_another_hosts_connection_is_not_taken(endpoint):
    with pytest.raises(ConfigError, match="Its password is sent nowhere else"):
        teacher_key("database", endpoint)


def test_a_connection_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="There is no Airflow connection 'nobody'. Make one of type http"):
        teacher_key("nobody", "https://api.example.com/v1")
