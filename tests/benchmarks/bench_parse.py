"""CPU time to parse and serialise ``dags/lfm_adapt.py``, as Airflow does each half minute, beside a bare DAG with as many tasks.

Goal of the project: at most 0.5 CPU-seconds more. The ratio's goal follows from what the bare DAG costs on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from report import measure_in_turn, write_result

ROOT = Path(__file__).parents[2]
ALLOWED_SECONDS = 0.5
PROCESS = """
import runpy
from airflow.serialization.serialized_objects import DagSerialization
DagSerialization.to_dict(runpy.run_path({path!r})["dag"])
"""
BARE = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator
with DAG("bare", schedule=None) as dag:
    tasks = [EmptyOperator(task_id=f"t{n}") for n in range(9)]
"""


def cpu_seconds(path: Path, environment: dict[str, str]) -> float:
    """User and system seconds of a fresh interpreter that runs the file at ``path`` and serialises its DAG."""
    before = os.times()
    subprocess.run([sys.executable, "-c", PROCESS.format(path=str(path))], env=environment, check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        bare = Path(directory) / "bare.py"
        bare.write_text(BARE)
        environment = {**os.environ, "AIRFLOW_HOME": directory, "PYTHONPATH": str(ROOT)}
        measured = measure_in_turn(
            lambda: cpu_seconds(ROOT / "dags" / "lfm_adapt.py", environment), lambda: cpu_seconds(bare, environment), runs=7, warm_up=1
        )
    peer = sorted(measured.peer)[len(measured.peer) // 2]
    more = sorted(ours - theirs for ours, theirs in zip(measured.ours, measured.peer, strict=True))[len(measured.ours) // 2]
    details = {"CPU-s above the bare DAG": more, "allowed above": ALLOWED_SECONDS}
    write_result("parse", "CPU-s", measured, f"apache-airflow {version('apache-airflow')}", peer / (peer + ALLOWED_SECONDS), details)


if __name__ == "__main__":
    main()
