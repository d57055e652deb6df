"""Retraining by partitions on a stack of its own: the key of a scheduled run names the snapshot of the data."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lfm_tasks.settings import Settings, settings
from lfm_tasks.stack.embedded import embedded
from tests.live.conftest import Live, wait_for_dags, write_inputs

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def partitioned(warm):
    """A stack whose lfm_retrain runs every minute, on the snapshot of the day."""
    root = Path(tempfile.mkdtemp(prefix="lfm-partitions-"))
    write_inputs(root / "data")
    today = datetime.now(UTC).date()
    for day in (today, today + timedelta(days=1)):
        (root / "data" / str(day)).mkdir()
        shutil.copy(root / "data" / "rows.jsonl", root / "data" / str(day))
    toy = Live(None, root / "data", None)
    params = toy.conf(data=f"file://{root}/data/{{partition}}/rows.jsonl", tune_epochs=1, promote_model_name="by-day")
    before = dict(os.environ)
    os.environ.update(
        LFM_ALLOWED_PREFIXES=f"file://{root / 'data'}",
        LFM_RETRAIN_SCHEDULE="* * * * *",
        LFM_RETRAIN_PARAMS=json.dumps(params),
        LFM_INTERPRETER=str(warm),
    )
    try:
        with embedded(Settings(home=root / "home")) as stack:
            yield Live(stack, root / "data", None)
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()
        shutil.rmtree(root, ignore_errors=True)


def test_the_day_of_a_scheduled_run_names_its_snapshot(partitioned):
    airflow = partitioned.stack.airflow
    wait_for_dags(partitioned.stack, "lfm_retrain")
    deadline = time.monotonic() + 120
    runs = []
    while not runs:
        assert time.monotonic() < deadline, "the schedule started no run"
        time.sleep(1)
        runs = airflow.get("dags/lfm_retrain/dagRuns?limit=5")["dag_runs"]
    run = runs[0]
    partitioned.succeeds(run["dag_run_id"], dag_id="lfm_retrain")
    key = run["partition_key"]
    assert datetime.strptime(key, "%Y-%m-%d")
    prepared = partitioned.records(run["dag_run_id"])["prepare"]
    assert prepared["inputs"]["data"]["reference"] == f"file://{partitioned.data}/{key}/rows.jsonl"
