"""Operators at work on a stack of its own with two people: questions, answers, kills while one waits, models evaluated by events."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from lfm_tasks.settings import Settings, settings
from lfm_tasks.stack import components, credentials
from lfm_tasks.stack.airflow_client import AirflowClient, AirflowRefused
from lfm_tasks.stack.embedded import embedded
from tests.conftest import ROOT
from tests.live.conftest import Live, wait_for_dags, write_inputs
from tests.smtp_server import mail_server

pytestmark = [pytest.mark.live, pytest.mark.slow]
HASTY = """import os

from lfm_tasks.settings import settings

os.environ["LFM_APPROVAL_HOURS"] = "0.003"
settings.cache_clear()
"""
PAUSED = {"lfm_promote", "lfm_hasty", "lfm_evaluate", "lfm_sweep", "lfm_retrain"}


def write_dags(directory: Path) -> None:
    """Our own DAGs, and lfm_promote once more with eleven seconds to answer."""
    shutil.copytree(ROOT / "dags", directory, ignore=shutil.ignore_patterns("__pycache__"))
    source = (ROOT / "dags" / "lfm_promote.py").read_text()
    head, begin, rest = source.partition("from airflow.sdk import DAG\n")
    assert begin, "the import that the hasty DAG's settings stand before"
    (directory / "lfm_hasty.py").write_text((head + HASTY + begin + rest).replace("lfm_promote", "lfm_hasty"))


@pytest.fixture(scope="module")
def people(warm):
    """(the stack, a client of the admin, who triggers runs, a client of bob, who answers, the mail server)."""
    root = Path(tempfile.mkdtemp(prefix="lfm-operate-"))
    write_inputs(root / "data")
    write_dags(root / "dags")
    toy = Live(None, root / "data", None)
    before, plain = dict(os.environ), components.common_environment
    users = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,bob:admin"}
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        mail = stack.enter_context(mail_server())
        patch.setattr(components, "common_environment", lambda: plain() | users)
        os.environ.update(
            LFM_ALLOWED_PREFIXES=f"file://{root / 'data'}",
            LFM_ALLOW_SELF_APPROVAL="false",
            LFM_NOTIFY_EMAIL="ann@localhost",
            LFM_RETRAIN_HOURS="0.002",
            LFM_RETRAIN_SCHEDULE="0 0 29 2 *",
            LFM_RETRAIN_PARAMS=json.dumps(toy.conf(promote_approval="never", promote_model_name="retrained")),
            AIRFLOW_CONN_SMTP_DEFAULT=mail.connection(),
            LFM_INTERPRETER=str(warm),
        )
        try:
            running = stack.enter_context(embedded(Settings(home=root / "home"), dags=root / "dags"))
            wait_for_dags(running, "lfm_adapt", *PAUSED)
            passwords = json.loads(credentials.password_file(running.home).read_text())
            bob = AirflowClient(running.addresses.airflow, "bob", passwords["bob"])
            yield Live(running, root / "data", MlflowClient(running.addresses.mlflow)), running.airflow, bob, mail
        finally:
            os.environ.clear()
            os.environ.update(before)
            settings.cache_clear()


@pytest.fixture(scope="module")
def model(people):
    """A model that the toy data makes better than its base, and everything up to its gate in the step cache."""
    live, admin, _, _ = people
    run_id = admin.trigger("lfm_adapt", live.conf(promote_approval="never", promote_model_name="first"))
    live.succeeds(run_id, 300)
    return live.records(run_id)["tune"]["outputs"]["model"]["sha256"]


@pytest.fixture
def ask(people, model):
    """``ask(name)``: a run of lfm_promote that waits for an answer. Returns its id."""
    live, admin, _, _ = people

    def start(name: str, dag_id: str = "lfm_promote", wait: bool = True) -> str:
        conf = {key: value for key, value in live.conf().items() if not key.startswith("tune_")}
        conf |= {"model": f"sha256:{model}", "baseline": live.conf()["model"]}
        run_id = admin.trigger(dag_id, conf | {"promote_approval": "always", "promote_model_name": name})
        if wait:
            waits(live, run_id, dag_id)
        return run_id

    return start


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def task(client, run_id, task_id, dag_id="lfm_promote"):
    return next(one for one in client.tasks(dag_id, run_id) if one["task_id"] == task_id)


def waits(live, run_id, dag_id="lfm_promote", number=1, seconds=200):
    """Wait until the question of try ``number`` is put, so that it can be answered."""

    def waiting():
        found = task(live.stack.airflow, run_id, "ask", dag_id)
        assert found["state"] not in ("failed", "upstream_failed", "skipped"), found
        parked = found["state"] == "awaiting_input" and found["try_number"] == number
        return parked and live.left(dag_id, run_id, "ask", number)

    wait_until(waiting, seconds, f"{run_id} does not ask")


def answer(client, run_id, chosen, reason=None, dag_id="lfm_promote"):
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/ask/-1/hitlDetails"
    client._call("PATCH", path, {"chosen_options": [chosen], "params_input": {"reason": reason}})


def promotion(live, run_id):
    return live.records(run_id)["promote"]["summary"]


def ledger(live, name):
    return [json.loads(live.store.backend.get_bytes(key)) for key in sorted(live.store.backend.list(f"ledger/{name}/"))]


def test_another_persons_yes_moves_the_alias_and_is_on_record(people, ask):
    live, admin, bob, mail = people
    run_id = ask("yes")
    detail = bob.get(f"dags/lfm_promote/dagRuns/{run_id}/taskInstances/ask/-1/hitlDetails")
    assert detail["subject"] == "Promote to yes@champion?"
    assert "| metric | role | champion | challenger |" in detail["body"] and "choice/accuracy" in detail["body"]
    answer(bob, run_id, "Approve", "Looks good.")
    live.succeeds(run_id, 200, "lfm_promote")
    said = promotion(live, run_id)
    assert (said["moved"], said["approved_by"], said["version"]) == (True, "bob", "1")
    (entry,) = ledger(live, "yes")
    assert "Approved by bob at " in entry["why"] and entry["why"].endswith("Looks good.")
    given = live.records(run_id)["approve"]["summary"]
    assert (given["by"], given["triggered_by"], given["timed_out"]) == ("bob", "admin", False)
    assert given["asked"] <= given["answered"] and given["decision_sha256"] == entry["evidence_sha256"]
    assert f"lfm_promote {run_id} asks for an answer" in mail.subjects


def test_a_promotion_that_is_tried_again_asks_nobody_and_moves_nothing_twice(people, ask):
    live, admin, bob, _ = people
    run_id = ask("again")
    answer(bob, run_id, "Approve")
    live.succeeds(run_id, 200, "lfm_promote")
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["promote"], "only_failed": False, "reset_dag_runs": True}
    admin._call("POST", "dags/lfm_promote/clearTaskInstances", body)
    wait_until(lambda: admin.run("lfm_promote", run_id)["state"] == "running", 30, "not cleared")
    live.succeeds(run_id, 200, "lfm_promote")
    assert task(admin, run_id, "promote")["try_number"] == 2 and task(admin, run_id, "ask")["try_number"] == 1
    assert len(ledger(live, "again")) == 1 and promotion(live, run_id)["moved"] is True


def test_approving_ones_own_run_is_refused_and_the_question_put_again(people, ask):
    live, admin, bob, _ = people
    run_id = ask("own")
    answer(admin, run_id, "Approve")
    waits(live, run_id, number=2)
    answer(bob, run_id, "Approve")
    live.succeeds(run_id, 200, "lfm_promote")
    assert promotion(live, run_id)["approved_by"] == "bob"
    log = "\n".join(admin.task_log("lfm_promote", run_id, "ask", 1))
    assert "admin started this run and may not approve it" in log and "The question is asked again" in log


def test_a_no_is_on_record_and_moves_nothing(people, ask):
    live, admin, bob, _ = people
    run_id = ask("no")
    answer(bob, run_id, "Reject", "Too slow.")
    with pytest.raises(AirflowRefused, match="409"):
        answer(admin, run_id, "Approve")
    live.succeeds(run_id, 200, "lfm_promote")
    said = promotion(live, run_id)
    assert said["moved"] is False and said["reasons"][0] == "bob said no." and said["timed_out"] is False
    assert ledger(live, "no") == []


def test_a_time_out_is_on_record_as_one(people, ask):
    live, admin, _, _ = people
    run_id = ask("late", "lfm_hasty", wait=False)
    live.succeeds(run_id, 300, "lfm_hasty")
    said, given = promotion(live, run_id), live.records(run_id)["approve"]["summary"]
    assert (said["moved"], said["timed_out"], said["approved_by"]) == (False, True, "")
    assert said["reasons"][0] == "A person was asked, and nobody answered in time."
    assert (given["timed_out"], given["by"], given["chosen"]) == (True, "", "reject")


def test_a_scheduler_killed_while_a_question_waits_loses_neither_question_nor_answer(people, ask):
    live, admin, bob, _ = people
    run_id = ask("killed")
    supervisor = live.stack.supervisor
    scheduler = next(one for one in supervisor.running if one.component.name == "airflow-scheduler")
    # With its workers, as a container or a unit of systemd goes down: they have its database connections, and an orphan among
    # them would keep the scheduler's lock in PostgreSQL.
    for process in [*psutil.Process(scheduler.process.pid).children(recursive=True), scheduler.process]:
        process.kill()
    scheduler.process.wait(20)
    supervisor.running.remove(scheduler)
    answer(bob, run_id, "Approve", "While it was down.")
    supervisor.start(scheduler.component)
    supervisor.wait()
    live.succeeds(run_id, 300, "lfm_promote")
    assert promotion(live, run_id)["moved"] is True and "While it was down." in ledger(live, "killed")[0]["why"]
    attempts = live.client.search_runs([live.client.get_experiment_by_name("lfm").experiment_id], max_results=1000)
    ours = [run for run in attempts if run.data.tags.get("lfm.key", "").startswith(f"lfm_promote/{run_id}/")]
    assert ours and {run.info.status for run in ours} == {"FINISHED"}


def test_every_model_of_a_sweep_is_evaluated_by_its_event(people, model):
    live, admin, _, _ = people
    conf = {name: value for name, value in live.conf().items() if not name.startswith(("gate_", "promote_", "general"))}
    conf |= {"sweep_grid": {"seed": [11, 12, 13]}, "tune_epochs": 1}
    run_id = admin.trigger("lfm_sweep", conf)
    live.succeeds(run_id, 400, "lfm_sweep")

    def records():
        return [record for _, record in live.store.records() if record.get("airflow")]

    made = {r["outputs"]["model"]["sha256"] for r in records() if r["airflow"]["run_id"] == run_id and r["step"] == "tune"}
    assert len(made) == 3

    def evaluated():
        return {r["inputs"]["model"]["sha256"] for r in records() if r["airflow"]["dag_id"] == "lfm_evaluate" and r["step"] == "evaluate"}

    wait_until(lambda: made <= evaluated(), 300, "not every model was evaluated")
    assert model in evaluated(), "the model of lfm_adapt was announced too"


def test_retraining_is_reported_when_late_and_finds_nothing_new_when_data_changed_in_name_only(people, model):
    """And people are told of a run that failed."""
    live, admin, _, mail = people
    failing = admin.trigger("lfm_adapt", live.conf(data=f"file://{live.data}/nothing.jsonl"))
    run_id = admin.trigger("lfm_retrain", {})
    live.succeeds(run_id, 300, "lfm_retrain")
    wait_until(lambda: f"lfm_adapt {failing} failed" in mail.subjects, 120, mail.subjects)
    wait_until(lambda: any("is late" in subject for subject in mail.subjects), 120, mail.subjects)
    between = {"dag_id": "lfm_retrain", "from_date": "2023-01-01T00:00:00Z", "to_date": "2026-01-01T00:00:00Z"}
    planned = admin._call("POST", "backfills/dry_run", between | {"dag_run_conf": {}})["backfills"]
    assert [one["logical_date"][:10] for one in planned] == ["2024-02-29"], "a backfill of the one 29th of February"
    asset = next(one for one in admin.get("assets?limit=100")["assets"] if one["name"] == "lfm_dataset")
    admin._call("POST", "assets/events", {"asset_id": asset["id"], "extra": {}})

    def by_asset():
        return [
            run["dag_run_id"] for run in admin.get("dags/lfm_retrain/dagRuns?limit=100")["dag_runs"] if run["run_type"] == "asset_triggered"
        ]

    wait_until(by_asset, 60, "the changed data set started no run")
    again = by_asset()[0]
    live.succeeds(again, 200, "lfm_retrain")
    assert task(admin, again, "promote", "lfm_retrain")["state"] == "skipped"
    assert live.records(again)["novelty"]["summary"]["new"] is False
