"""Runs that were left RUNNING, and the small REST client of a dying task."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import TrackingUnavailable
from lfm_tasks.settings import Settings
from lfm_tasks.tracking import rest
from lfm_tasks.tracking.reaper import reap
from lfm_tasks.tracking.tracker import Tracker
from tests.tracking.tracking_records import make_record


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    return MlflowClient(settings.tracking_uri)


def start(client: MlflowClient, tracker: Tracker, key: str, age: timedelta = timedelta()) -> str:
    begun = round((time.time() - age.total_seconds()) * 1000)
    return client.create_run(tracker.experiment_id, begun, {"lfm.key": key, "airflow.task_id": key}).info.run_id


def test_only_runs_of_dead_tasks_are_closed(tracker: Tracker, client: MlflowClient) -> None:
    runs = {key: start(client, tracker, key) for key in ("dead", "alive", "unknown")}
    says = {"dead": False, "alive": True, "unknown": None}
    reaped = reap(tracker, lambda tags: says[tags["airflow.task_id"]])
    assert [(r.run_id, r.key, r.status) for r in reaped] == [(runs["dead"], "dead", "KILLED")]
    status = {key: client.get_run(run_id).info.status for key, run_id in runs.items()}
    assert status == {"dead": "KILLED", "alive": "RUNNING", "unknown": "RUNNING"}
    dead = client.get_run(runs["dead"])
    assert dead.data.tags["lfm.reaped"] == "true"
    assert dead.info.end_time is not None


def test_unknown_runs_are_closed_by_age_alone(tracker: Tracker, client: MlflowClient) -> None:
    old, young = start(client, tracker, "old", timedelta(hours=2)), start(client, tracker, "young")
    assert [r.run_id for r in reap(tracker, lambda tags: None, older_than=timedelta(hours=1))] == [old]
    assert client.get_run(young).info.status == "RUNNING"


def test_a_run_that_ends_while_it_is_asked_about_is_left_alone(tracker: Tracker, client: MlflowClient) -> None:
    run_id = start(client, tracker, "ending")

    def ends_meanwhile(tags: object) -> bool:
        client.set_terminated(run_id, "FINISHED")
        return False

    assert reap(tracker, ends_meanwhile) == []
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_whose_record_is_logged_was_finished_not_killed(
    store: Store, tracker: Tracker, client: MlflowClient, commit: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record("tune", {}, {"model": commit("model", "a")})
    record["mlflow"]["run_id"] = run_id = start(client, tracker, record["attempt"]["key"])
    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "set_terminated", _no_answer)
        with pytest.raises(TrackingUnavailable):
            tracker.log_record(store.put_record(record), record)
    assert [(r.run_id, r.status) for r in reap(tracker, lambda tags: False)] == [(run_id, "FINISHED")]


def test_closing_over_rest_on_a_bare_database(tracker: Tracker, client: MlflowClient, settings: Settings) -> None:
    run_id = start(client, tracker, "it's")
    assert rest.finish_parent(settings.tracking_uri, "lfm", "it's", "FINISHED")
    assert not rest.finish_parent(settings.tracking_uri, "lfm", "its", "FINISHED")
    rest.set_terminated(settings.tracking_uri, run_id, "KILLED")
    assert client.get_run(run_id).info.status == "KILLED"


@pytest.mark.live
def test_closing_over_rest_on_a_real_server(server: tuple[str, Path], tmp_path: Path) -> None:
    address, root = server
    tracker = Tracker.open(Settings(home=tmp_path, store_uri=f"file://{root}", mlflow_uri=address), Store.open(f"file://{root}"))
    client = MlflowClient(address)
    run_id = start(client, tracker, "dag/it's")
    rest.set_terminated(address, run_id, "KILLED")
    rest.set_terminated(address, run_id, "KILLED")
    assert client.get_run(run_id).info.status == "KILLED"
    assert rest.finish_parent(address, "lfm", "dag/it's", "FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not rest.finish_parent(address, "lfm", "dag/its", "FINISHED")
    assert not rest.finish_parent(address, "no such project", "dag/it's", "FINISHED")


def test_a_server_that_hangs_is_given_up_in_time_and_credentials_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, release = [], threading.Event()

    class Hanging(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers["Authorization"])
            release.wait(10)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "word")
    with HTTPServer(("127.0.0.1", 0), Hanging) as hanging:
        threading.Thread(target=hanging.serve_forever, daemon=True).start()
        with pytest.raises(TrackingUnavailable, match="did not answer to runs/update within 0.2 s"):
            rest.set_terminated(f"http://127.0.0.1:{hanging.server_port}", "r", "KILLED", timeout=0.2)
        release.set()
        hanging.shutdown()
    assert seen == ["Basic dXNlcjp3b3Jk"]


def test_the_rest_client_needs_no_mlflow() -> None:
    code = "import sys, lfm_tasks.tracking.rest; sys.exit(any(m in sys.modules for m in ('mlflow', 'sqlalchemy', 'requests')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def _no_answer(*_: object) -> None:
    raise TimeoutError("timed out")
