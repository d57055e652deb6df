"""What MLflow holds after the tracker spoke, read back by a plain client; and the laws of saying things twice."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import ConfigError, InvalidInput, TrackingUnavailable
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.sync import sync_records
from lfm_tasks.tracking.tracker import Tracker
from tests.tracking.tracking_records import make_record

Commit = Callable[..., Artifact]


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    return MlflowClient(settings.tracking_uri)


def tuned(commit: Commit) -> tuple[dict, dict[str, Artifact]]:
    made = {name: commit(kind, name) for name, kind in [("base", "model"), ("data", "dataset"), ("merged", "model")]}
    base = made["base"].sha256
    made["adapter"] = commit("adapter", "a", {"lfm_adapter.json": json.dumps({"base": {"kind": "model", "sha256": base}})})
    inputs = {"model": made["base"], "dataset": made["data"]}
    return make_record("tune", inputs, {"adapter": made["adapter"], "model": made["merged"]}, method="lora"), made


def log(store: Store, tracker: Tracker, record: dict) -> str:
    run_id = tracker.open_attempt(tracker.parent("dag/run", "dag run", {}), record["attempt"]["key"], record["attempt"]["name"], {})
    record["mlflow"]["run_id"] = run_id
    address = store.put_record(record)
    tracker.log_record(address, record)
    tracker.close_attempt(run_id, "FINISHED")
    return run_id


def edges(client: MlflowClient, run_id: str) -> tuple[set[str], set[str], set[tuple[str, str]]]:
    """Addresses of the models in, the models out, and (context, address) of the data sets, as a stranger reads them."""
    run = client.get_run(run_id)
    sha256 = lambda model_id: client.get_logged_model(model_id).tags["lfm.sha256"]  # noqa: E731
    tags = [{tag.key: tag.value for tag in given.tags} for given in run.inputs.dataset_inputs]
    return (
        {sha256(given.model_id) for given in run.inputs.model_inputs},
        {sha256(made.model_id) for made in run.outputs.model_outputs},
        {(tag["mlflow.data.context"], tag["sha256"]) for tag in tags},
    )


def test_edges_are_read_back_by_a_plain_client(store: Store, tracker: Tracker, commit: Commit, client: MlflowClient) -> None:
    record, made = tuned(commit)
    run_id = log(store, tracker, record)
    given, came_out, data = edges(client, run_id)
    assert given == {made["base"].sha256}
    assert came_out == {made["adapter"].sha256, made["merged"].sha256}
    assert data == {("dataset", made["data"].sha256)}
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time == 1767225690000
    assert run.data.params == {"rank": "8", "targets": '["q", "v"]', "nested.lr": "0.1", "text": 'it\'s "quoted"'}
    assert run.data.metrics["accuracy"] == 0.75
    assert run.data.tags["airflow.url"] == "http://a/b"
    assert run.data.tags["lfm.output.model"] == made["merged"].sha256
    assert run.data.tags["mlflow.parentRunId"] == tracker.find_run("dag/run").info.run_id


def test_an_adapter_names_its_base_and_metrics_are_on_the_model_page(
    store: Store, tracker: Tracker, commit: Commit, client: MlflowClient
) -> None:
    record, made = tuned(commit)
    run_id = log(store, tracker, record)
    models = {m.tags["lfm.sha256"]: m for m in client.search_logged_models([tracker.experiment_id])}
    assert models[made["adapter"].sha256].tags["lfm.base_sha256"] == made["base"].sha256
    merged = models[made["merged"].sha256]
    assert (str(merged.status), merged.source_run_id, merged.model_type) == ("READY", run_id, "model")
    assert {(m.key, m.value, m.dataset_digest) for m in merged.metrics} == {
        ("accuracy", 0.75, made["data"].sha256[:36]),
        ("loss", 0.5, made["data"].sha256[:36]),
    }


def test_a_record_of_any_size_is_told_whole_and_its_last_tag_last(
    store: Store, tracker: Tracker, commit: Commit, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of 32 models on four tasks has 128 inputs: more tags than MLflow takes at once."""
    report = commit("report", {"report.json": b"{}"})
    config, metrics = ({f"{name}{k}": k for k in range(count)} for name, count in (("option", 230), ("metric", 2300)))
    record = make_record("compare", {f"reports.{k}": report for k in range(250)}, {}, config=config, metrics=metrics)
    batches, log_batch = [], tracker._client.log_batch

    def kept(run_id, **entities):
        if "tags" in entities:
            batches.append(entities)
        log_batch(run_id, **entities)

    monkeypatch.setattr(tracker._client, "log_batch", kept)
    run_id = log(store, tracker, record)
    told = client.get_run(run_id).data
    assert told.params == {name: str(value) for name, value in config.items()}
    assert {name: told.metrics[name] for name in metrics} == metrics
    assert {told.tags[f"lfm.input.reports.{k}"] for k in range(250)} == {report.sha256} and "lfm.inputs" not in told.tags
    assert len(batches) == 6 and all(0 < len(one["tags"]) + len(one["params"]) <= 100 for one in batches)
    assert [tag.key for one in batches for tag in one["tags"]][-1] == batches[-1]["tags"][-1].key == "lfm.record"


def test_logging_a_record_twice_is_logging_it_once(store: Store, settings: Settings, tracker: Tracker, commit: Commit) -> None:
    record, _ = tuned(commit)
    log(store, tracker, record)
    before = dump(settings)
    address = store.put_record(record)
    first = tracker.log_record(address, record)
    assert Tracker.open(settings, store).log_record(address, record) == first
    assert dump(settings) == before


def test_a_record_interrupted_anywhere_is_completed_by_logging_it_again(
    store: Store, tracker: Tracker, commit: Commit, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, made = tuned(commit)
    address = store.put_record(record)
    for broken in ("create_logged_model", "log_inputs", "log_outputs", "log_batch", "set_terminated"):
        with monkeypatch.context() as patch:
            patch.setattr(tracker._client, broken, _refuse)
            with pytest.raises(TrackingUnavailable):
                tracker.log_record(address, record)
    tracker.log_record(address, record)
    run_id = tracker.find_run(record["attempt"]["key"]).info.run_id
    assert edges(client, run_id)[1] == {made["adapter"].sha256, made["merged"].sha256}
    assert len(client.search_runs([tracker.experiment_id], "tags.`lfm.role` = 'attempt'")) == 1
    assert len(client.search_logged_models([tracker.experiment_id])) == 3
    assert client.get_run(run_id).info.status == "FINISHED"


def test_an_answer_that_is_lost_does_not_make_a_second_run(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    create = tracker._client.create_run

    def create_and_lose_the_answer(*arguments: object) -> None:
        create(*arguments)
        monkeypatch.setattr(tracker._client, "create_run", create)
        raise TimeoutError("the answer was lost")

    monkeypatch.setattr(tracker._client, "create_run", create_and_lose_the_answer)
    run_id = tracker.open_attempt(None, "dag/run/tune/-1/1", "tune try 1", {})
    assert [run.info.run_id for run in tracker.search("")] == [run_id]


@pytest.mark.parametrize(
    "key", ["dag/manual__2026-01-01T00:00:00+00:00", "it's", "both \" and ' quotes", "x' OR 'a' = 'a", "a%_\\b", "dag/ä"]
)
def test_any_key_finds_its_own_run_and_no_other(tracker: Tracker, key: str) -> None:
    others = [tracker.open_attempt(None, other, "other", {}) for other in ("aXb", "it_s", "dag/x")]
    run_id = tracker.open_attempt(None, key, "run", {})
    assert tracker.open_attempt(None, key, "run", {}) == run_id
    assert run_id not in others
    for opened in (run_id, *others):
        tracker.close_attempt(opened, "FINISHED")


def test_tasks_that_begin_at_once_share_one_parent(settings: Settings, store: Store, tracker: Tracker) -> None:
    trackers = [Tracker.open(settings, store) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda one: one.parent("dag/run", "dag run", {}), trackers))
    assert len(found) == 1
    tracker.finish_parent("dag/run", "FINISHED")
    assert tracker.find_run("dag/run").info.status == "FINISHED"
    tracker.finish_parent("no such parent", "FINISHED")


def test_a_cache_hit_is_a_run_with_the_same_output_model(store: Store, tracker: Tracker, commit: Commit, client: MlflowClient) -> None:
    record, made = tuned(commit)
    first = log(store, tracker, record)
    hit, _ = tuned(commit)
    hit |= {"cache": {"hit": True, "record": store.put_record(record), "run_id": first}}
    hit["attempt"] = {"key": "dag/run/tune/-1/2", "name": "tune try 2", "try_number": 2}
    second = log(store, tracker, hit)
    assert second != first
    ids = [{made.model_id for made in client.get_run(run).outputs.model_outputs} for run in (first, second)]
    assert ids[0] == ids[1]
    tags = client.get_run(second).data.tags
    assert (tags["lfm.cache"], tags["lfm.cache.record"], tags["lfm.cache.run_id"]) == ("hit", store.put_record(record), first)


def test_the_store_alone_rebuilds_the_graph_in_an_empty_mlflow(
    store: Store, settings: Settings, tracker: Tracker, commit: Commit, client: MlflowClient, tmp_path: Path, migrated: Path
) -> None:
    record, made = tuned(commit)
    report = commit("report", "r", {"metrics.json": "{}", "report.md": "# Report", "figures/a.png": "png"})
    prepared = make_record("prepare", {"model": made["base"]}, {"dataset": made["data"]}, number=1)
    record["started"], record["finished"] = "2026-01-01T00:02:00+00:00", "2026-01-01T00:02:30+00:00"
    evaluated = make_record("evaluate", {"model": made["merged"], "dataset": made["data"]}, {"report": report}, number=3)
    runs = {r["step"]: log(store, tracker, r) for r in (prepared, record, evaluated)}
    before = {step: edges(client, run_id) for step, run_id in runs.items()}

    empty = tmp_path / "empty.db"
    empty.write_bytes(migrated.read_bytes())
    fresh = Tracker.open(settings.model_copy(update={"mlflow_uri": f"sqlite:///{empty}"}), store)
    counts = sync_records(store, fresh)
    assert (counts.seen, counts.known, counts.logged, counts.failed) == (3, 0, 3, {})
    again = MlflowClient(f"sqlite:///{empty}")
    for replayed in (prepared, record, evaluated):
        run, original = fresh.find_run(replayed["attempt"]["key"]), client.get_run(runs[replayed["step"]])
        assert edges(again, run.info.run_id) == before[replayed["step"]]
        assert (run.info.status, run.info.start_time) == ("FINISHED", original.info.end_time - 30000)
        assert run.data.params == original.data.params
    parent = fresh.find_run("dag/run")
    assert (parent.info.status, parent.info.end_time) == ("FINISHED", 1767225810000)
    assert {file.path for file in again.list_artifacts(run.info.run_id, "report")} == {"report/report.md", "report/a.png"}
    assert sync_records(store, fresh).logged == 0


def test_metrics_on_the_way_arrive_and_the_machine_is_sampled(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfm_tasks.tracking.reporter.SECONDS_BETWEEN_BATCHES", 0.05)
    run_id = tracker.open_attempt(None, "k", "run", {})
    for step in range(5):
        tracker.report(run_id, step, {"loss": 1 / (step + 1)})
    for _ in range(100):
        if "system/cpu_utilization_percentage" in client.get_run(run_id).data.metrics:
            break
        time.sleep(0.1)
    tracker.report(run_id, 5, {"loss": float("nan")})
    tracker.close_attempt(run_id, "FAILED", "ValueError: bad")
    run = client.get_run(run_id)
    assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == [0, 1, 2, 3, 4, 5]
    assert "system/system_memory_usage_megabytes" in run.data.metrics
    assert (run.info.status, run.data.tags["lfm.error"]) == ("FAILED", "ValueError: bad")


def test_metrics_that_mlflow_does_not_take_are_a_warning(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = tracker.open_attempt(None, "k", "run", {})
    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "log_batch", _refuse)
        tracker.report(run_id, 1, {"loss": 1.0})
        tracker.close_attempt(run_id, "FINISHED")
    assert "1 metric values were not logged" in capsys.readouterr().err


def test_mlflow_down_is_said_quickly_with_what_to_do(settings: Settings, store: Store) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://user:canary-password@127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(TrackingUnavailable, match="did not answer .*LFM_MLFLOW_URI") as caught:
        Tracker.open(settings.model_copy(update={"mlflow_uri": uri}), store)
    assert "canary" not in str(caught.value)
    assert caught.value.retryable


def test_a_refused_request_says_which_settings_to_look_at(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise RestException({"error_code": "PERMISSION_DENIED", "message": "Permission denied"})

    monkeypatch.setattr(tracker._client, "search_runs", forbidden)
    with pytest.raises(ConfigError, match="refused the request .*Permission denied.*MLFLOW_TRACKING_USERNAME"):
        tracker.find_run("k")


def test_a_deleted_experiment_is_named(settings: Settings, store: Store, tracker: Tracker, client: MlflowClient) -> None:
    client.delete_experiment(tracker.experiment_id)
    with pytest.raises(ConfigError, match="Experiment 'lfm' was deleted in MLflow. Restore it there or set LFM_PROJECT"):
        Tracker.open(settings, store)


def test_a_version_that_mlflow_could_not_serve_is_not_registered(
    settings: Settings, store: Store, client: MlflowClient, commit: Commit
) -> None:
    client.create_experiment("elsewhere", f"file://{settings.home}/elsewhere")
    tracker = Tracker.open(settings.model_copy(update={"project": "elsewhere"}), store)
    model = commit("model", "a")
    given = Input(f"sha256:{model.sha256}", "model", model.sha256, settings.home)
    with pytest.raises(ConfigError, match=r"does not serve the store's files .*--artifacts-destination file://.*/store/mlflow"):
        tracker.registry.promote("m", "champion", given, None, "", "e" * 64)
    assert client.search_model_versions("name = 'm'") == []


def test_a_project_name_outside_the_pattern_is_refused(settings: Settings, store: Store) -> None:
    with pytest.raises(InvalidInput, match=r"Project '\.\./\.\./x' is not a valid name"):
        Tracker.open(settings.model_copy(update={"project": "../../x"}), store)


def test_secrets_never_reach_mlflow(
    store: Store, settings: Settings, tracker: Tracker, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-f1e2d3c4"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    record, _ = tuned(commit)
    record["config"]["text"] = f"s3 key {canary}"
    record["airflow"]["url"] = f"http://someone:{canary}@host/log"
    run_id = log(store, tracker, record)
    tracker.close_attempt(run_id, "FAILED", f"Refused {canary}, AKIAABCDEFGHIJKLMNOP and Authorization: Bearer abcdefghijkl")
    text = dump(settings)
    assert canary not in text
    assert "AKIAABCDEFGHIJKLMNOP" not in text
    assert "abcdefghijkl" not in text


def _refuse(*_: object, **__: object) -> None:
    raise TimeoutError("timed out")


def dump(settings: Settings) -> str:
    """Everything in MLflow's database but the times of last changes."""
    with sqlite3.connect(settings.tracking_uri.removeprefix("sqlite:///")) as database:
        return "\n".join(line for line in database.iterdump() if "system/" not in line)
