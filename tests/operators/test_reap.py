"""When is the process behind a RUNNING run gone?"""

from __future__ import annotations

import pytest

from lfm_tasks.operators.reap import is_task_alive

TASK = {"airflow.dag_id": "d", "airflow.run_id": "r", "airflow.task_id": "t", "airflow.map_index": "-1", "airflow.try_number": "1"}
PARENT = {"airflow.dag_id": "d", "airflow.run_id": "r"}


def ask(tags, state="running", run="running", later=False):
    def task_state(dag_id, run_id, task_id, map_index):
        if isinstance(state, Exception):
            raise state
        return state

    return is_task_alive(tags, task_state, lambda dag_id, run_id: run, lambda key: later and key == "d/r/t/-1/2")


@pytest.mark.parametrize(
    ("state", "alive"),
    [("running", True), ("queued", True), ("failed", False), ("up_for_retry", False), ("success", False), (None, None), (OSError(), None)],
)
def test_a_task_by_its_state(state, alive):
    assert ask(TASK, state) is alive


def test_an_earlier_try_of_a_running_task_is_dead():
    assert ask(TASK, "running", later=True) is False


@pytest.mark.parametrize(("state", "alive"), [("running", True), ("success", False), ("failed", False)])
def test_a_parent_by_its_dag_run(state, alive):
    assert ask(PARENT, run=state) is alive


def test_a_run_from_the_command_line_is_unknown_to_airflow():
    assert ask({}) is None
