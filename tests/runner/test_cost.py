"""What an attempt used is in its record and in MLflow; a cache hit says what it saved; old records can still be read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.steps import STEPS
from lfm_tasks.tracking.cost import Prices, metrics, total
from tests.runner.toy_steps import TOY
from tests.tracking.tracking_records import make_record


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setitem(STEPS._entries, "toy", TOY)
    return Settings(home=home, price_cpu_hour=3600, price_gib=1024, currency="EUR")


def toy(settings: Settings, text: str = "a", **inputs: str) -> JobResult:
    return run_job(Job(step="toy", config={"text": text}, inputs=inputs), settings, StopSignal())


def test_seconds_memory_and_bytes_of_the_work_are_recorded_and_logged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    store, work = Store.open(settings.store), TOY.function

    def busy(config, inputs, context):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return work(config, inputs, context)

    first = toy(settings, "a" * 60_000)
    monkeypatch.setattr("tests.runner.toy_steps.run", busy)
    second = toy(settings, "b" * 30_000, data=first.outputs["dataset"])
    record = store.get_record(second.record)
    assert record["cpu_seconds"] >= 0.2 and record["wall_seconds"] >= 0.2
    assert (record["device_seconds"], record["peak_device_bytes"]) == (0, 0)
    assert record["peak_rss_bytes"] > 2**24
    # The input of 60,000 bytes is read; its bytes and ours are written, and a checkpoint of one byte.
    assert record["bytes_read"] == 60_000 and record["bytes_written"] == 90_001
    logged = MlflowClient(settings.tracking_uri).get_run(second.run_id).data.metrics
    for name in ("wall_seconds", "cpu_seconds", "device_seconds", "peak_rss_bytes", "bytes_read", "bytes_written"):
        assert logged[f"cost/{name}"] == record[name]
    assert logged["cost/money"] == pytest.approx(record["cpu_seconds"] + 150_001 / 2**20)


def test_a_cache_hit_says_what_it_saved(settings: Settings) -> None:
    store = Store.open(settings.store)
    made, hit = (store.get_record(toy(settings).record) for _ in range(2))
    assert "saved" not in made
    assert hit["saved"] == {name: made[name] for name in ("wall_seconds", "cpu_seconds", "device_seconds")}
    result = toy(settings)
    logged = MlflowClient(settings.tracking_uri).get_run(result.run_id).data.metrics
    assert logged["cost/saved_cpu_seconds"] == made["cpu_seconds"]


def test_records_of_format_1_count_with_what_they_say(settings: Settings) -> None:
    old = make_record("tune", {}, {})
    assert "device_seconds" not in old and old["format"] == 1
    summed = total([old, old | {"device_seconds": 10.0, "bytes_read": 5}], Prices(device_hour=3600))
    assert (summed["cpu_seconds"], summed["device_seconds"], summed["bytes_read"], summed["money"]) == (40.0, 10.0, 5, 10.0)
    assert metrics(old, Prices()) == {"cost/wall_seconds": 30.0, "cost/cpu_seconds": 20.0, "cost/peak_rss_bytes": 1 << 20}
    assert total([], Prices())["money"] is None
