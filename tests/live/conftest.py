"""The whole embedded stack: PostgreSQL, MLflow, Airflow's api-server, scheduler and dag-processor; one for each file of tests."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import Settings
from lfm_tasks.stack.airflow_client import AirflowRefused
from lfm_tasks.stack.embedded import Stack, embedded
from tests.toys import make_llama

CANARY = "canary-7f3a9c-never-shown"
SUBJECTS = {"business": "market", "sport": "goal", "tech": "phone"}


@dataclass(frozen=True)
class Live:
    """A running stack, and what tests ask of it."""

    stack: Stack
    data: Path
    client: MlflowClient

    @property
    def store(self) -> Store:
        return Store.open(f"file://{self.stack.home / 'store'}")

    def conf(self, **params):
        """A small job: a toy decoder learns three topics from its own rows; nothing comes from a registry."""
        return {
            "model": f"file://{self.data}/model",
            "data": f"file://{self.data}/rows.jsonl",
            "general": None,
            "tune_method": "full",
            "tune_learning_rate": 0.01,
            "tune_epochs": 6,
            "prepare_prompt_template": "Article: {text}\nTopic:",
            "gate_must_not_regress": [],
            "promote_model_name": "toy-topics",
            "promote_approval": "never",
            **params,
        }

    def trigger(self, **params) -> str:
        return self.stack.airflow.trigger("lfm_adapt", self.conf(**params))

    def wait(self, run_id: str, seconds: float = 600, dag_id: str = "lfm_adapt") -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.stack.airflow.run(dag_id, run_id)["state"]
            if state in ("success", "failed"):
                return state
            time.sleep(0.5)
        raise AssertionError(f"{dag_id} {run_id} did not end within {seconds} s: {self.story(run_id, dag_id)}")

    def succeeds(self, run_id: str, seconds: float = 600, dag_id: str = "lfm_adapt") -> None:
        """Wait for the run's end, and tell its story where it failed."""
        state = self.wait(run_id, seconds, dag_id)
        assert state == "success", f"{dag_id} {run_id} failed: {self.story(run_id, dag_id)}"

    def story(self, run_id: str, dag_id: str) -> str:
        """The states of the run's tasks, and the end of the log of each try of those that did not end well."""
        parts = [str(self.states(run_id, dag_id))]
        for task in self.stack.airflow.tasks(dag_id, run_id):
            ended = task["state"] in ("success", "skipped", "upstream_failed")
            for number in range(1, 1 if ended else task["try_number"] + 1):
                with suppress(AirflowRefused):  # a try that Airflow started again under the same number has no log of its own
                    log = self.stack.airflow.task_log(dag_id, run_id, task["task_id"], number)
                    parts.append("\n".join([f"{task['task_id']}, try {number}:", *log[-30:]]))
        return "\n\n".join(parts)

    def states(self, run_id: str, dag_id: str = "lfm_adapt") -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in self.stack.airflow.tasks(dag_id, run_id)}

    def log(self, run_id: str, task_id: str, number: int = 1) -> str:
        return "\n".join(self.stack.airflow.task_log("lfm_adapt", run_id, task_id, number))

    def records(self, run_id: str) -> dict[str, dict]:
        """The run's records by task id."""
        return {
            record["airflow"]["task_id"]: record
            for _, record in self.store.records()
            if (record.get("airflow") or {}).get("run_id") == run_id
        }

    def attempts(self, run_id: str) -> dict[str, str]:
        """MLflow status of every attempt of a DAG run, by run name."""
        experiment = self.client.get_experiment_by_name("lfm")
        found = self.client.search_runs([experiment.experiment_id], max_results=1000)
        return {run.info.run_name: run.info.status for run in found if run.data.tags.get("lfm.key", "").startswith(f"lfm_adapt/{run_id}/")}

    def left(self, dag_id: str, run_id: str, task_id: str, number: int = 1) -> bool:
        """Whether the scheduler has noticed that the worker of this try is done.

        Airflow 3.3 takes an answer that comes before for a lost task, and puts the question again; a person is rarely so quick.
        """
        event = f"event with state success for task instance TaskInstanceKey(dag_id='{dag_id}', task_id='{task_id}', run_id='{run_id}', "
        return f"{event}try_number={number}," in (self.stack.home / "logs" / "airflow-scheduler.log").read_text()

    def child(self, seconds: float = 90) -> psutil.Process:
        """The process of the tune step, once it has written a checkpoint."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            checkpoints = list(self.store.backend.list("checkpoints/"))
            jobs = [one for one in psutil.process_iter(["cmdline"]) if self._tunes(one)]
            if jobs and any(key.endswith("manifest.json") for key in checkpoints):
                return jobs[0]
            time.sleep(0.1)
        raise AssertionError("no step with a checkpoint is running")

    def _tunes(self, process: psutil.Process) -> bool:
        command = process.info["cmdline"] or []
        try:
            if "run-job" not in command or process.environ().get("LFM_HOME") != str(self.stack.home):
                return False
            return json.loads(Path(command[command.index("run-job") + 1]).read_text())["step"] == "tune"
        except (psutil.Error, FileNotFoundError):
            return False


@pytest.fixture(scope="session")
def interpreter() -> str:
    """What steps run with."""
    return sys.executable


@pytest.fixture(scope="module")
def live(interpreter):
    root = Path(tempfile.mkdtemp(prefix="lfm-live-"))
    data = root / "data"
    write_inputs(data)
    before = dict(os.environ)
    os.environ.update(
        LFM_ALLOWED_PREFIXES=f"file://{data}",
        AWS_SECRET_ACCESS_KEY=CANARY,
        AIRFLOW_CONN_CANARY=f"http://user:{CANARY}@localhost",
        LFM_INTERPRETER=str(interpreter),
    )
    try:
        with embedded(Settings(home=root / "home")) as stack:
            wait_for_dags(stack)
            yield Live(stack, data, MlflowClient(stack.addresses.mlflow))
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(root, ignore_errors=True)


def wait_for_dags(stack: Stack, *dag_ids: str, seconds: float = 180) -> None:
    """Wait until Airflow has parsed the DAGs, lfm_adapt where none is named, and switch them on."""
    deadline = time.monotonic() + seconds
    for dag_id in dag_ids or ("lfm_adapt",):
        while stack.airflow.dag(dag_id) is None:
            assert time.monotonic() < deadline, stack.airflow.import_errors()
            time.sleep(0.5)
        stack.airflow.unpause(dag_id)


def pause(stack: Stack, dag_id: str) -> None:
    stack.airflow._call("PATCH", f"dags/{dag_id}", {"is_paused": True})


def write_inputs(directory: Path) -> None:
    """A toy decoder and 240 rows whose topic one word gives away."""
    make_llama(directory / "model")
    rows = []
    for index in range(240):
        label = list(SUBJECTS)[index % 3]
        rows.append({"text": f"number {index} about the {SUBJECTS[label]} of day {index * 7 % 31}", "label": label})
    (directory / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
