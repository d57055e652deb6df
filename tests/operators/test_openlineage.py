"""What a step tells OpenLineage: a real task, the provider's own listener, and its file transport."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import settings
from tests.conftest import ROOT
from tests.environments import Unavailable, run, skip_or_fail
from tests.toys import make_llama

pytestmark = pytest.mark.slow

VERSIONS = ("openlineage-python==1.54.0", "openlineage-integration-common==1.54.0", "openlineage-sql==1.54.0")
PROVIDER = ("apache-airflow-providers-openlineage==2.20.3", *VERSIONS)

DAG = """
from airflow.sdk import DAG
from lfm_tasks.operators import PrepareOperator
from lfm_tasks.operators.params import step_params
with DAG(dag_id="toy", schedule=None, params=step_params("prepare")):
    PrepareOperator(task_id="prepare", references={{"data": {data!r}, "model": {model!r}}})
"""
RUN = """
from airflow.utils.db import initdb
initdb()
from airflow.configuration import conf
from airflow.dag_processing.dagbag import DagBag
DagBag(conf.get("core", "dags_folder")).dags["toy"].test()
"""


@pytest.fixture(scope="session")
def provider() -> Path:
    """A directory with the provider, which is optional: beside the environment, so that no other Airflow process loads it."""
    directory = Path(os.environ.get("LFM_HOME", ROOT / ".lfm")).resolve() / "test" / "openlineage"
    complete = directory / PROVIDER[0]
    if not complete.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
        try:
            run("get the OpenLineage provider", *command, "--target", directory, *PROVIDER)
        except Unavailable as error:
            skip_or_fail(error)
        complete.touch()
    return directory


@pytest.fixture
def events(home, tmp_path, provider):
    """Run the step prepare as a task in an Airflow of its own; the events by their type."""

    def run(data: str) -> dict[str, dict]:
        log = tmp_path / "events.jsonl"
        environment = os.environ | {
            "LFM_HOME": str(home),
            "LFM_ALLOWED_PREFIXES": f"file://{tmp_path}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(provider)]),
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(log), "append": True}),
            "AIRFLOW__OPENLINEAGE__NAMESPACE": "test",
            "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "120",
        }
        (tmp_path / "dags").mkdir()
        (tmp_path / "dags" / "toy.py").write_text(DAG.format(data=data, model=f"file://{tmp_path}/model"))
        done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, timeout=280)
        assert log.exists(), done.stdout[-3000:] + done.stderr[-3000:]
        found = [json.loads(line) for line in log.read_text().splitlines()]
        return {event["eventType"]: event for event in found if event["job"]["name"] == "toy.prepare"}

    make_llama(tmp_path / "model")
    rows = [json.dumps({"text": f"day {n}", "label": ["up", "down"][n % 2]}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return run


def test_a_finished_step_names_its_record_and_the_content_that_went_in_and_came_out(events, tmp_path):
    event = events(f"file://{tmp_path}/rows.jsonl")["COMPLETE"]
    ((address, record),) = Store.open(settings().store).records()
    facet = event["run"]["facets"]["lfm"]
    assert (facet["step"], facet["record"], facet["cache"]) == ("prepare", address, "miss")
    assert facet["mlflow_run_id"] == record["mlflow"]["run_id"]
    assert facet["parents"] == {name: f"sha256:{entry['sha256']}" for name, entry in record["inputs"].items()}
    assert {dataset["facets"]["version"]["datasetVersion"] for dataset in event["inputs"]} == {
        e["sha256"] for e in record["inputs"].values()
    }
    (made,) = event["outputs"]
    sha256 = record["outputs"]["dataset"]["sha256"]
    assert (made["namespace"], made["name"]) == ("file", f"{settings().home.resolve()}/store/artifacts/dataset/{sha256}")


def test_a_failed_step_says_why_and_names_no_output(events, tmp_path):
    event = events("file:///etc/passwd")["FAIL"]
    facet = event["run"]["facets"]["lfm"]
    assert (facet["step"], facet["error"], facet["outputs"]) == ("prepare", "ReferenceRefused", {})
    assert "record" not in facet
    assert not event.get("outputs")
