"""One attempt from job to record, on a real store and a real MLflow database, with a step that does next to nothing."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import AttemptKilled, ConfigError, IntegrityError, ReferenceRefused, TrackingUnavailable
from lfm_tasks.runner.job import AirflowTask, Job
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.steps import STEPS
from tests.runner.toy_steps import TOY


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setitem(STEPS._entries, "toy", TOY)
    return Settings(home=home)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace"
    return lambda: path.read_text().splitlines() if path.exists() else []


def toy(tmp_path, inputs=None, task=None, **config):
    return Job(step="toy", config={"trace": str(tmp_path / "trace"), **config}, inputs=inputs or {}, airflow=task)


def try_number(number):
    return AirflowTask(dag_id="d", run_id="r", task_id="t", try_number=number)


def test_an_equal_job_is_answered_from_the_cache_and_says_so(tmp_path, settings, trace):
    first = run_job(toy(tmp_path), settings, StopSignal())
    second = run_job(toy(tmp_path), settings, StopSignal())
    assert (first.cache, second.cache) == ("miss", "hit")
    assert first.outputs == second.outputs and first.metrics == second.metrics
    assert first.run_id != second.run_id and first.record != second.record
    assert trace() == ["began at 0"]
    made, hit = (Store.open(settings.store).get_record(address) for address in (first.record, second.record))
    assert made["cache"] == {"hit": False, "record": None, "run_id": None}
    assert hit["cache"] == {"hit": True, "record": first.record, "run_id": first.run_id}
    tags = MlflowClient(settings.tracking_uri).get_run(second.run_id).data.tags
    assert tags["lfm.cache"] == "hit"


@pytest.mark.parametrize("change", [{"text": "other"}, {"units": 2}, {"seed": 1}])
def test_a_changed_config_is_another_job(tmp_path, settings, change):
    run_job(toy(tmp_path), settings, StopSignal())
    assert run_job(toy(tmp_path, **change), settings, StopSignal()).cache == "miss"


def test_a_changed_input_is_another_job_and_the_same_bytes_under_another_name_are_not(tmp_path, settings):
    one = run_job(toy(tmp_path, text="1"), settings, StopSignal()).outputs["dataset"]
    two = run_job(toy(tmp_path, text="2"), settings, StopSignal()).outputs["dataset"]
    assert run_job(toy(tmp_path, {"data": one}), settings, StopSignal()).cache == "miss"
    assert run_job(toy(tmp_path, {"data": two}), settings, StopSignal()).cache == "miss"
    assert run_job(toy(tmp_path, {"data": one}), settings, StopSignal()).cache == "hit"


def test_changed_code_is_another_job(tmp_path, settings, monkeypatch):
    run_job(toy(tmp_path), settings, StopSignal())
    monkeypatch.setattr("lfm_tasks.runner.run.code_digest", lambda packages: "0" * 64)
    assert run_job(toy(tmp_path), settings, StopSignal()).cache == "miss"


def test_the_cache_can_be_left_aside(tmp_path, settings, trace):
    run_job(toy(tmp_path), settings, StopSignal())
    again = run_job(toy(tmp_path).model_copy(update={"use_cache": False}), settings, StopSignal())
    assert again.cache == "off" and len(trace()) == 2


def test_a_cached_result_whose_artifact_is_gone_is_made_again(tmp_path, settings):
    first = run_job(toy(tmp_path), settings, StopSignal())
    store = Store.open(settings.store)
    address = first.outputs["dataset"].removeprefix("sha256:")
    store.backend.delete(f"artifacts/dataset/{address}")
    assert run_job(toy(tmp_path), settings, StopSignal()).cache == "miss"
    store.verify(store.find(address))


def test_a_killed_attempt_is_closed_as_killed_and_its_retry_resumes(tmp_path, settings, trace):
    with pytest.raises(AttemptKilled):
        run_job(toy(tmp_path, units=3, stop_at=2, task=try_number(1)), settings, StopSignal())
    result = run_job(toy(tmp_path, units=3, stop_at=2, task=try_number(2)), settings, StopSignal())
    assert trace() == ["began at 0", "began at 2"]
    client = MlflowClient(settings.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("lfm").experiment_id])
    attempts = {run.info.run_name: run.info.status for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert attempts == {"t try 1": "KILLED", "t try 2": "FINISHED"}
    assert not list(Store.open(settings.store).backend.list("checkpoints/"))
    assert result.cache == "miss"


def test_a_resumed_job_gives_the_artifact_of_one_that_was_never_killed(tmp_path, settings):
    with pytest.raises(AttemptKilled):
        run_job(toy(tmp_path, units=3, stop_at=2), settings, StopSignal())
    resumed = run_job(toy(tmp_path, units=3), settings, StopSignal())
    straight = run_job(toy(tmp_path, units=3).model_copy(update={"use_cache": False}), settings, StopSignal())
    assert resumed.outputs == straight.outputs


def test_a_failed_step_commits_nothing_and_its_attempt_says_why(tmp_path, settings):
    with pytest.raises(RuntimeError):
        run_job(toy(tmp_path, fail=True), settings, StopSignal())
    store = Store.open(settings.store)
    assert list(store.artifacts()) == [] and list(store.records()) == []
    client = MlflowClient(settings.tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("lfm").experiment_id])
    assert run.info.status == "FAILED" and "told to fail" in run.data.tags["lfm.error"]
    assert list((settings.home / "work").iterdir()) == []


def test_mlflow_away_stops_the_step_before_its_work(tmp_path, settings, trace):
    away = settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9", "mlflow_retries": 0, "mlflow_timeout": 1.0})
    with pytest.raises(TrackingUnavailable, match="127.0.0.1:9"):
        run_job(toy(tmp_path), away, StopSignal())
    assert trace() == []


def test_one_flipped_byte_of_an_input_is_refused_and_named(tmp_path, settings):
    made = run_job(toy(tmp_path), settings, StopSignal()).outputs["dataset"].removeprefix("sha256:")
    path = settings.home / "store" / "artifacts" / "dataset" / made / "rows.jsonl"
    path.write_bytes(b"jello")
    with pytest.raises(IntegrityError, match="rows.jsonl"):
        run_job(toy(tmp_path, {"data": f"sha256:{made}"}, text="x"), settings, StopSignal())


@pytest.mark.parametrize("bad", ["../x", "file:///etc/passwd", "http://example.org/x", "s3://other/x", "sha256:" + "0" * 64])
def test_inputs_outside_the_known_forms_are_refused(tmp_path, settings, trace, bad):
    with pytest.raises(ReferenceRefused):
        run_job(toy(tmp_path, {"data": bad}), settings, StopSignal())
    assert trace() == []


def test_unknown_steps_inputs_and_options_are_refused(tmp_path, settings):
    with pytest.raises(ConfigError, match="Unknown step 'tuen'. Did you mean 'tune'"):
        run_job(Job(step="tuen"), settings, StopSignal())
    with pytest.raises(ConfigError, match="Unknown option 'txt'. Did you mean 'text'"):
        run_job(Job(step="toy", config={"txt": "x"}), settings, StopSignal())
    with pytest.raises(ConfigError, match="Unknown input of step toy 'date'. Did you mean 'data'"):
        run_job(toy(tmp_path, {"date": "starter://bbc-news"}), settings, StopSignal())


def test_a_config_of_two_megabytes_is_refused(settings):
    with pytest.raises(ConfigError, match="at most 65,536"):
        run_job(Job(step="toy", config={"text": "x" * 2_000_000}), settings, StopSignal())
