"""``python -m tests.runner.full_disk_job DISK HOME``: a job whose result finds no room on ``DISK``, and again once there is room.

Prints in JSON what was said and what is left after the first attempt, and what the retry gave.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import LfmError
from lfm_tasks.runner.job import AirflowTask, Job
from lfm_tasks.runner.run import error_result, run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.steps import STEPS
from tests.artifacts.media import MIB, tree
from tests.runner.toy_steps import TOY


def main(disk: Path, home: Path) -> None:
    STEPS.add(TOY)
    settings = Settings(home=home, store_uri=f"file://{disk}/store")
    store = Store.open(settings.store)
    rows = store.commit(tree(home / "rows", {"rows.jsonl": b"x" * 3 * MIB}), "dataset")

    def job(number: int) -> Job:
        task = AirflowTask(dag_id="d", run_id="r", task_id="t", try_number=number)
        return Job(step="toy", inputs={"data": f"sha256:{rows.sha256}"}, airflow=task)

    said = {}
    try:
        run_job(job(1), settings, StopSignal())
    except LfmError as error:
        said = error_result(error)
    left = [key for key in store.backend.list("") if rows.sha256 not in key]
    left += [str(path) for path in (disk / "store" / ".tmp").iterdir()]
    client = MlflowClient(settings.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("lfm").experiment_id])
    (attempt,) = [run for run in runs if run.info.run_name == "t try 1"]
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    retry = run_job(job(2), settings, StopSignal())
    store.verify(store.find(retry.outputs["dataset"].removeprefix("sha256:")))
    mlflow = {"status": attempt.info.status, "error": attempt.data.tags["lfm.error"]}
    print(json.dumps({"said": said, "left": left, "mlflow": mlflow, "retry": retry.cache}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
