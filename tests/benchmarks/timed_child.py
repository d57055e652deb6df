"""``python timed_child.py -m MODULE …`` runs a step's process as ``python -m MODULE …`` would, and notes where its time went.

The notes go to ``$LFM_BENCH_TIMES/<dag run>-<task>.json``: moments in seconds since the epoch, and seconds within ``run_job``.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import sys
import time
from pathlib import Path


def born() -> float:
    """When the kernel made this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - float(Path("/proc/uptime").read_text().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")


spent: dict[str, list[float]] = {"mlflow": [], "store": []}
moments = {"born": born()}


def timed(owner: type, name: str, item: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*arguments, **options):
        started = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            spent[item].append(time.perf_counter() - started)

    setattr(owner, name, call)


def main() -> None:
    task = json.loads(Path(sys.argv[sys.argv.index("run-job") + 1]).read_text())["airflow"]
    from lfm_tasks.artifacts.file_backend import FileBackend
    from lfm_tasks.importing import undisturbed_imports

    with undisturbed_imports():
        from lfm_tasks.runner import run

    requests = sys.modules["requests"]
    timed(requests.Session, "send", "mlflow")
    for name in ("get_bytes", "put_bytes", "put_tree", "get_file", "sha256"):
        timed(FileBackend, name, "store")
    original = run.run_job

    @functools.wraps(original)
    def run_job(*arguments, **options):
        moments["work"] = time.time()
        try:
            return original(*arguments, **options)
        finally:
            moments["done"] = time.time()

    run.run_job = run_job
    sys.argv = sys.argv[2:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__")
    finally:
        notes = Path(os.environ["LFM_BENCH_TIMES"]) / f"{task['run_id']}-{task['task_id']}.json"
        totals = {item: sum(seconds) for item, seconds in spent.items()}
        notes.write_text(json.dumps({**moments, **totals, "requests": len(spent["mlflow"])}))


if __name__ == "__main__":
    main()
