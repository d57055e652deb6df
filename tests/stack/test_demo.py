"""The demo with a stand-in for the servers; the live test has the real ones."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from rich.console import Console

from lfm_tasks.errors import Unavailable
from lfm_tasks.settings import Settings
from lfm_tasks.stack import demo as module
from lfm_tasks.stack.components import Addresses
from lfm_tasks.stack.supervisor import StackFailed


class Airflow:
    """Two tasks; the second ends as ``state``. The DAG is found at the second look."""

    def __init__(self, state: str = "success") -> None:
        self.state, self.looks, self.unpaused, self.errors = state, 0, [], {}

    def dag(self, dag_id):
        self.looks += 1
        return {"dag_id": dag_id} if self.looks > 1 and not self.errors else None

    def import_errors(self):
        return self.errors

    def unpause(self, dag_id):
        self.unpaused.append(dag_id)

    def trigger(self, dag_id, conf):
        self.conf = conf
        return "manual__1"

    def fail(self, dag_id, run_id):
        self.failed = (dag_id, run_id)

    def task_order(self, dag_id):
        return ["prepare", "tune"]

    def run(self, dag_id, run_id):
        return {"state": self.state}

    def tasks(self, dag_id, run_id):
        states = {"tune": self.state, "prepare": "success"}
        return [{"task_id": name, "state": state, "duration": 1.0, "try_number": 1} for name, state in states.items()]

    def task_log(self, dag_id, run_id, task_id, try_number, map_index):
        return [f"line {n}" for n in range(100)] + ["NonFiniteLoss: loss is nan at step 3"]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Runs the demo on a stand-in; returns its exit code and what it printed."""

    def run(airflow: Airflow, check=lambda: None) -> tuple[int, str]:
        file = io.StringIO()
        settings = Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:9")
        supervisor = SimpleNamespace(check=check, running=[], logs=tmp_path / "logs", log=lambda name: tmp_path / name)
        stack = SimpleNamespace(
            home=tmp_path,
            addresses=Addresses(1, 2),
            airflow=airflow,
            environment={"LFM_LEDGER_URI": ""},
            supervisor=supervisor,
            settings=lambda: settings,
        )

        @contextmanager
        def starting(settings, console, dags):
            yield stack

        monkeypatch.setattr(module, "starting", starting)
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
        code = module.demo(settings, starters=(), conf={"tune_steps": 1}, console=Console(file=file, width=160))
        return code, file.getvalue()

    return run


def test_success_is_exit_code_0_and_a_file(demo, tmp_path):
    airflow = Airflow()
    code, shown = demo(airflow)
    assert code == 0
    assert airflow.unpaused == ["lfm_adapt"]
    assert airflow.conf == {"tune_steps": 1}
    written = json.loads((tmp_path / "demo" / "adapt.json").read_text())
    assert [step["task"] for step in written["steps"]] == ["prepare", "tune"]
    assert written["name"] == "adapt"
    assert written["state"] == "success"
    assert "Everything is stopped." in shown


def test_failure_is_exit_code_1_with_the_end_of_the_task_s_log(demo, tmp_path):
    code, shown = demo(Airflow("failed"))
    assert code == 1
    assert "Task tune failed" in shown
    assert "NonFiniteLoss: loss is nan at step 3" in shown
    assert "line 10\n" not in shown
    assert json.loads((tmp_path / "demo" / "adapt.json").read_text())["state"] == "failed"


def test_a_dag_file_that_cannot_be_imported_is_shown(demo):
    airflow = Airflow()
    airflow.errors = {"lfm_adapt.py": "ImportError: no module named x", "other.py": "unrelated"}
    with pytest.raises(Unavailable, match="cannot import the file of DAG lfm_adapt:\nImportError: no module named x"):
        demo(airflow)


def test_a_server_that_dies_on_the_way_ends_the_demo(demo):
    def check():
        raise StackFailed("mlflow stopped with exit code 1.")

    with pytest.raises(StackFailed, match="mlflow stopped"):
        demo(Airflow(), check)


def test_interruption_is_exit_code_130_and_ends_the_run(demo):
    """Or the next start would go on with it, beside its own."""
    airflow = Airflow("running")
    looks = iter([None, None])

    def check():
        if next(looks, "late"):
            raise KeyboardInterrupt

    assert demo(airflow, check)[0] == 130
    assert airflow.failed == ("lfm_adapt", "manual__1")
