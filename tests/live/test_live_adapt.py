"""The main job on real servers, started over REST, followed by an auditor with stock tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import requests

from tests.live.conftest import CANARY

pytestmark = [pytest.mark.live, pytest.mark.slow]
STEPS = {"prepare", "tune", "evaluate_base", "evaluate_champion", "evaluate_challenger", "gate", "promote"}


@pytest.fixture(scope="module")
def first(live):
    run_id = live.trigger()
    live.succeeds(run_id)
    return run_id


def test_every_step_ran_and_left_its_record(live, first):
    assert set(live.records(first)) == STEPS
    assert live.states(first)["prepare_general"] == "skipped"


def test_the_adapted_model_became_champion(live, first):
    records = live.records(first)
    version = live.client.get_model_version_by_alias("toy-topics", "champion")
    assert version.tags["lfm.sha256"] == records["tune"]["outputs"]["model"]["sha256"]
    assert records["gate"]["summary"]["outcome"] == "promote"


def test_a_plain_mlflow_client_reads_the_edges(live, first):
    records = live.records(first)
    tune = live.client.get_run(records["tune"]["mlflow"]["run_id"])
    sha = {m.model_id: live.client.get_logged_model(m.model_id).tags["lfm.sha256"] for m in tune.inputs.model_inputs}
    assert list(sha.values()) == [records["tune"]["inputs"]["model"]["sha256"]]
    made = {live.client.get_logged_model(m.model_id).tags["lfm.sha256"] for m in tune.outputs.model_outputs}
    assert made == {output["sha256"] for output in records["tune"]["outputs"].values()}
    evaluate = live.client.get_run(records["evaluate_challenger"]["mlflow"]["run_id"])
    read = {live.client.get_logged_model(m.model_id).tags["lfm.sha256"] for m in evaluate.inputs.model_inputs}
    assert read == {records["tune"]["outputs"]["model"]["sha256"]}


def test_attempts_are_children_of_one_parent_and_all_are_closed(live, first):
    records = live.records(first)
    parents = {live.client.get_run(r["mlflow"]["run_id"]).data.tags["mlflow.parentRunId"] for r in records.values()}
    assert len(parents) == 1
    assert live.client.get_run(parents.pop()).info.status == "FINISHED"
    assert set(live.attempts(first).values()) == {"FINISHED"}


def test_the_task_links_to_its_run_and_the_run_to_its_task(live, first):
    run = live.client.get_run(live.records(first)["tune"]["mlflow"]["run_id"])
    assert run.data.tags["airflow.url"].startswith(live.stack.addresses.airflow)
    links = live.stack.airflow.get(f"dags/lfm_adapt/dagRuns/{first}/taskInstances/tune/links")["extra_links"]
    assert run.info.run_id in links["MLflow run"]


def test_a_stock_client_loads_the_champion(live, first, tmp_path):
    code = (
        "import mlflow, sys\n"
        "from transformers import AutoModelForCausalLM\n"
        f"mlflow.set_tracking_uri({live.stack.addresses.mlflow!r})\n"
        "pipeline = mlflow.transformers.load_model('models:/toy-topics@champion')\n"
        "print(pipeline('Article: number 5 about the goal of day 3\\nTopic:', max_new_tokens=2)[0]['generated_text'])\n"
        "mlflow.pyfunc.load_model('models:/toy-topics@champion').predict('Article:')\n"
        "AutoModelForCausalLM.from_pretrained(mlflow.artifacts.download_artifacts('models:/toy-topics@champion'))\n"
        "assert not [name for name in sys.modules if name.startswith('lfm_tasks')]\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("LFM_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sport" in done.stdout


def test_a_second_run_does_no_work_and_makes_no_version(live, first):
    again = live.trigger()
    live.succeeds(again)
    records = live.records(again)
    assert {task for task, record in records.items() if record["cache"]["hit"]} >= {
        "prepare",
        "tune",
        "evaluate_base",
        "evaluate_challenger",
    }
    assert "cache hit" in live.log(again, "tune")
    assert len(live.client.search_model_versions("name = 'toy-topics'")) == 1


def test_a_key_that_the_form_does_not_have_is_refused_without_a_retry(live):
    run_id = live.stack.airflow.trigger("lfm_adapt", {**live.conf(), "evil": "../../x"})
    assert live.wait(run_id) == "failed"
    assert "Unknown Param 'evil'" in live.log(run_id, "prepare")
    tasks = {task["task_id"]: task for task in live.stack.airflow.tasks("lfm_adapt", run_id)}
    assert tasks["prepare"]["try_number"] == 1 and tasks["tune"]["state"] == "upstream_failed"


@pytest.mark.parametrize(
    "bad",
    [
        {"tune_rank": 10**9},
        {"tune_method": "lorra"},
        {"promote_model_name": "../../x"},
        {"prepare_max_length": 10**9},
        {"tune_learning_rate": -1},
    ],
    ids=str,
)
def test_a_value_out_of_bounds_is_refused_by_the_form_itself(live, bad):
    from lfm_tasks.stack.airflow_client import AirflowRefused

    with pytest.raises(AirflowRefused, match="400|422"):
        live.trigger(**bad)


def test_the_api_and_the_ui_ask_for_a_login(live):
    assert requests.get(f"{live.stack.addresses.airflow}/api/v2/dags", timeout=10).status_code == 401


def test_no_secret_is_shown_anywhere(live, first):
    """Looks for the canary in every file of the home: logs, store, both databases' files."""
    found = subprocess.run(["grep", "-rlaF", CANARY, str(live.stack.home)], capture_output=True, text=True).stdout
    assert found == ""
    tasks = live.stack.airflow.get(f"dags/lfm_adapt/dagRuns/{first}/taskInstances/tune/xcomEntries/return_value")
    assert CANARY not in json.dumps(tasks)
