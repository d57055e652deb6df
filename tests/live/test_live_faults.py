"""Kill it anywhere: no run stays RUNNING, no work is lost, nothing is made twice."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

pytestmark = [pytest.mark.live, pytest.mark.slow]
LONG = {"tune_epochs": 1, "tune_max_steps": 800, "tune_checkpoint_every": 25, "tune_evaluate_every": 800}


def states_once(live, run_id, task_id, wanted, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if live.states(run_id).get(task_id) in wanted:
            return
        time.sleep(0.3)
    raise AssertionError(live.states(run_id))


def resumed_at(log: str) -> int:
    """The step that a resumed attempt began at."""
    line = next(line for line in log.splitlines() if "resum" in line.lower())
    return max(int(word.strip(".,")) for word in line.split() if word.strip(".,").isdigit())


def test_a_step_that_is_killed_and_then_ends_with_its_killed_worker_goes_on_each_time(live):
    run_id = live.trigger(tune_seed=1, **LONG)
    first = live.child()
    first.kill()
    first.wait(60)
    states_once(live, run_id, "tune", {"up_for_retry"})
    second, deadline = live.child(), time.monotonic() + 60
    while "resum" not in live.log(run_id, "tune", 2).lower() and time.monotonic() < deadline:
        time.sleep(0.5)
    psutil.Process(second.ppid()).kill()
    second.wait(60)
    live.succeeds(run_id, 400)
    attempts = live.attempts(run_id)
    assert attempts["tune try 1"] in ("KILLED", "FAILED", "RUNNING")
    assert attempts["tune try 2"] == "KILLED", "Where Airflow starts it again under the same number, this is the first of the two."
    assert "SIGKILL" in live.log(run_id, "tune", 1)
    assert resumed_at(live.log(run_id, "tune", 2)) >= 25


def test_sigkill_of_the_worker_ends_the_step_too_and_the_reaper_closes_what_is_left(live):
    run_id = live.trigger(tune_seed=2, **LONG)
    child = live.child()
    worker = psutil.Process(child.ppid())
    os.kill(child.pid, signal.SIGSTOP)
    worker.kill()
    child.kill()
    live.succeeds(run_id, 400)
    live.stack.airflow.unpause("lfm_maintain")
    reaped = live.stack.airflow.trigger("lfm_maintain")
    live.succeeds(reaped, 120, "lfm_maintain")
    attempts = live.attempts(run_id)
    assert attempts["tune try 1"] == "KILLED" and attempts["tune try 2"] == "FINISHED"
    assert "RUNNING" not in attempts.values()
    sha = live.records(run_id)["tune"]["outputs"]["model"]["sha256"]
    assert len(live.client.search_model_versions(f"tags.`lfm.sha256` = '{sha}'")) <= 1


def test_stopping_a_task_in_airflow_marks_the_run_killed_and_keeps_the_checkpoint(live):
    run_id = live.trigger(tune_seed=4, **LONG)
    child = live.child()
    live.stack.airflow._call("PATCH", f"dags/lfm_adapt/dagRuns/{run_id}/taskInstances/tune", {"new_state": "failed"})
    child.wait(60)
    assert live.wait(run_id) == "failed"
    deadline = time.monotonic() + 30
    while live.attempts(run_id)["tune try 1"] == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert live.attempts(run_id)["tune try 1"] == "KILLED"
    assert any(key.endswith("manifest.json") for key in live.store.backend.list("checkpoints/"))
    again = live.trigger(tune_seed=4, **LONG)
    live.succeeds(again, 400)
    assert resumed_at(live.log(again, "tune")) >= 25


def test_one_flipped_byte_is_refused_and_named(live):
    run_id = live.trigger(tune_epochs=1, tune_seed=5, promote_model_name="flipped")
    live.succeeds(run_id)
    record = live.records(run_id)["tune"]
    path = live.stack.home / "store" / "artifacts" / "model" / record["outputs"]["model"]["sha256"] / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    again = live.trigger(tune_epochs=1, tune_seed=5, promote_model_name="flipped", evaluate_seed=9)
    assert live.wait(again) == "failed"
    assert "model.safetensors" in live.log(again, "evaluate_challenger")
