"""A real MLflow server that goes away: before a step no work begins, during it no work is lost, and afterwards nobody can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.cli import main
from lfm_tasks.errors import TrackingUnavailable
from lfm_tasks.runner.job import AirflowTask, Job
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings, settings
from lfm_tasks.steps import STEPS
from tests.artifacts.media import tree
from tests.conftest import ROOT
from tests.mlflow_server import MlflowServer
from tests.runner.toy_steps import TOY, TOY_LEARN

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setitem(STEPS._entries, "toy", TOY)
    monkeypatch.setitem(STEPS._entries, "toy_learn", TOY_LEARN)


@pytest.fixture(scope="module")
def server(tmp_path_factory, migrated):
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), migrated)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def served(home, server, monkeypatch) -> Settings:
    """This home's settings, with the real server."""
    monkeypatch.setenv("LFM_MLFLOW_URI", server.address)
    monkeypatch.setenv("LFM_STORE_URI", f"file://{server.store}")
    monkeypatch.setenv("LFM_MLFLOW_RETRIES", "1")
    settings.cache_clear()
    return settings()


def task(name: str, number: int = 1) -> AirflowTask:
    return AirflowTask(dag_id="d", run_id="r", task_id=name, try_number=number)


def prepare(settings: Settings, directory) -> dict[str, str]:
    """A model in the store, and rows made by a step."""
    model = Store.open(settings.store).commit(tree(directory, {"config.json": b"{}"}), "model")
    rows = run_job(Job(step="toy", airflow=task("prepare")), settings, StopSignal()).outputs["dataset"]
    return {"model": f"sha256:{model.sha256}", "data": rows}


def learn(inputs: dict[str, str], number: int, **config) -> Job:
    return Job(step="toy_learn", config={"text": "learned", **config}, inputs=inputs, airflow=task("learn", number))


def graph(uri: str) -> dict:
    """What an auditor reads with stock MLflow: each run, what went in and came out of it, its parent, its status."""
    client = MlflowClient(uri, uri)
    runs = client.search_runs([client.get_experiment_by_name("lfm").experiment_id])
    names = {run.info.run_id: run.data.tags["lfm.key"] for run in runs}

    def models(found) -> list[str]:
        return sorted(client.get_logged_model(one.model_id).tags["lfm.sha256"] for one in found)

    return {
        run.data.tags["lfm.key"]: {
            "status": run.info.status,
            "parent": names.get(run.data.tags.get("mlflow.parentRunId")),
            "models in": models(run.inputs.model_inputs),
            "data in": sorted((one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs),
            "models out": models(run.outputs.model_outputs),
            "params": {name: value for name, value in run.data.params.items() if name not in ("trace", "kill")},
            "result": {name: run.data.metrics.get(name) for name in ("units", "loss")},
            "tags": {name: run.data.tags.get(name) for name in ("lfm.step", "lfm.cache", "lfm.role", "lfm.code_sha256")},
        }
        for run in runs
    }


def test_killed_during_the_work_nothing_is_lost_and_after_a_sync_the_graph_is_that_of_an_undisturbed_run(
    tmp_path, home, served, server, capsys
):
    inputs = prepare(served, tmp_path / "model")
    trace = tmp_path / "trace"
    with pytest.raises(TrackingUnavailable, match="The work is done and in the store as record ([0-9a-f]{64}), but MLflow") as away:
        run_job(learn(inputs, 1, trace=str(trace), kill=server.pid), served, StopSignal())
    assert "Run `lfm records sync` when it answers again; a retry finds the work in the cache." in str(away.value)
    assert away.value.retryable and "Connection refused" in str(away.value)
    (address,) = [address for address, record in Store.open(served.store).records() if record["step"] == "toy_learn"]
    assert address in str(away.value)

    server.start()
    disturbed = graph(server.address)["d/r/learn/-1/1"]
    assert (disturbed["status"], disturbed["models out"]) == ("RUNNING", [])
    assert main(["records", "sync", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"seen": 2, "known": 1, "logged": 1, "failed": {}}
    retry = run_job(learn(inputs, 2, trace=str(trace)), served, StopSignal())
    assert retry.cache == "hit" and trace.read_text() == "began at 0\n"

    undisturbed = Settings(home=home, mlflow_uri="", store_uri=f"file://{home}/store")
    assert prepare(undisturbed, tmp_path / "model") == inputs
    for number in (1, 2):
        run_job(learn(inputs, number), undisturbed, StopSignal())
    assert graph(server.address) == graph(undisturbed.tracking_uri)


def test_gone_before_the_step_no_work_begins_and_the_job_may_be_tried_again(tmp_path, served, server):
    server.kill()
    trace, before = tmp_path / "trace", sorted(Store.open(served.store).backend.list(""))
    with pytest.raises(TrackingUnavailable, match=f"MLflow at {server.address} did not answer .*Start it .* or set LFM_MLFLOW_URI") as away:
        run_job(Job(step="toy", config={"trace": str(trace), "text": "never done"}), served, StopSignal())
    assert away.value.retryable and not trace.exists()
    assert sorted(Store.open(served.store).backend.list("")) == before

    (tmp_path / "job.json").write_text(Job(step="prepare").model_dump_json())
    command = [sys.executable, "-m", "lfm_tasks.cli", "run-job", str(tmp_path / "job.json")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert json.loads(done.stdout)["error"] == {"type": "TrackingUnavailable", "message": str(away.value), "retryable": True}
