"""Wall time of a DAG run of five steps that the step cache answers, beside one of five tasks that do nothing, itemised.

All of it is outside the steps' own work. Both DAGs run on the same embedded stack (PostgreSQL, MLflow, Airflow) in turn, from
the moment of the trigger to the end of the run as Airflow notes them.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from report import measure_in_turn, write_result

from lfm_tasks.settings import Settings
from lfm_tasks.stack.embedded import Stack, embedded
from tests.toys import make_llama

HERE = Path(__file__).parent
GOAL = 1 / 3
"""A step may cost three times an empty task: it has a process, an MLflow run and a record of its own."""
TOPICS = {"business": "market", "sport": "goal", "tech": "phone"}
OURS, PEER = "cached", "nothing"
PARSED = "Worker startup parse complete"


class Bench:
    def __init__(self, stack: Stack, times: Path, conf: dict[str, Any]) -> None:
        self.airflow, self.times, self.conf = stack.airflow, times, conf
        self.items: dict[str, list[dict[str, float]]] = {OURS: [], PEER: []}

    def ours(self) -> float:
        return self.seconds(OURS, self.conf, self.child)

    def peer(self) -> float:
        return self.seconds(PEER, {}, lambda run, task, parsed: {"task": moment(task["end_date"]) - parsed})

    def seconds(self, dag_id: str, conf: dict[str, Any], inside: Callable[[dict, dict, float], dict[str, float]]) -> float:
        """Wall time of one run; its items are kept. ``inside`` itemises a task from the moment when its DAG file was parsed."""
        run = self.finished(dag_id, conf)
        before, items = moment(run["queued_at"]), Counter()
        for task in self.tasks(run):
            started, parsed = moment(task["start_date"]), self.parsed(run, task)
            items += Counter({"scheduler and queue": started - before, "worker start, DAG parse": parsed - started})
            items += Counter(inside(run, task, parsed))
            before = moment(task["end_date"])
        items["end of the run"] = moment(run["end_date"]) - before
        self.items[dag_id].append(items)
        return moment(run["end_date"]) - moment(run["queued_at"])

    def child(self, run: dict, task: dict, parsed: float) -> dict[str, float]:
        notes = json.loads((self.times / f"{run['dag_run_id']}-{task['task_id']}.json").read_text())
        return {
            "operator": notes["born"] - parsed,
            "child: start and imports": notes["work"] - notes["born"],
            "child: MLflow": notes["mlflow"],
            "child: store": notes["store"],
            "child: rest": notes["done"] - notes["work"] - notes["mlflow"] - notes["store"],
            "end of child and task": moment(task["end_date"]) - notes["done"],
            "MLflow requests": notes["requests"],
        }

    def finished(self, dag_id: str, conf: dict[str, Any]) -> dict:
        run_id = self.airflow.trigger(dag_id, conf)
        while (run := self.airflow.run(dag_id, run_id))["state"] not in ("success", "failed"):
            time.sleep(0.5)
        if run["state"] == "failed":
            raise RuntimeError({task["task_id"]: task["state"] for task in self.tasks(run)})
        return run

    def tasks(self, run: dict) -> list[dict]:
        return sorted(self.airflow.tasks(run["dag_id"], run["dag_run_id"]), key=lambda task: task["start_date"])

    def parsed(self, run: dict, task: dict) -> float:
        path = f"dags/{run['dag_id']}/dagRuns/{quote(run['dag_run_id'])}/taskInstances/{task['task_id']}/logs/1?full_content=true"
        return next(moment(line["timestamp"]) for line in self.airflow.get(path)["content"] if line["event"] == PARSED)


def moment(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def write_inputs(directory: Path) -> dict[str, Any]:
    """A toy decoder and rows whose topic one word gives away, as the Params that name them."""
    make_llama(directory / "model")
    labels = list(TOPICS)
    rows = [{"text": f"number {n} about the {TOPICS[labels[n % 3]]}", "label": labels[n % 3]} for n in range(240)]
    (directory / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {"model": f"file://{directory}/model", "data": f"file://{directory}/rows.jsonl", "tune_method": "full"}


def medians(items: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(statistics.median(item[name] for item in items)) for name in items[0]}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lfm-bench-") as directory:
        root = Path(directory)
        times = root / "times"
        times.mkdir()
        conf = write_inputs(root / "data") | {"tune_max_steps": 2, "gate_must_not_regress": []}
        os.environ.update(
            LFM_ALLOWED_PREFIXES=f"file://{root}/data",
            LFM_LAUNCHER_ARGS=str(HERE / "timed_child.py"),
            LFM_BENCH_TIMES=str(times),
            OMP_NUM_THREADS="1",
        )
        with embedded(Settings(home=root / "home"), dags=HERE / "overhead_dags") as stack:
            for dag_id in (OURS, PEER):
                while stack.airflow.dag(dag_id) is None:
                    time.sleep(0.5)
                stack.airflow.unpause(dag_id)
            bench = Bench(stack, times, conf)
            measured = measure_in_turn(bench.ours, bench.peer, runs=7, warm_up=1)
    details = {f"{dag_id}: {name}": value for dag_id, items in bench.items.items() for name, value in medians(items[1:]).items()}
    write_result("overhead", "s", measured, f"apache-airflow {version('apache-airflow')}, five empty tasks", GOAL, details)


if __name__ == "__main__":
    main()
