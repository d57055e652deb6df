"""Records as the runner writes them, for the tests of tracking."""

from __future__ import annotations

import json
from typing import Any


def make_record(step: str, inputs: dict[str, Any], outputs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A record as the runner writes it. ``inputs`` and ``outputs`` map names to artifacts."""
    number = changes.pop("number", 1)
    record = {
        "format": 1,
        "step": step,
        "method": None,
        "job_id": f"job-{step}-{number}",
        "cache_key": f"{number:064x}",
        "cache": {"hit": False, "record": None, "run_id": None},
        "config": {"rank": 8, "targets": ["q", "v"], "nested": {"lr": 0.1}, "text": 'it\'s "quoted"'},
        "inputs": {
            name: {"reference": f"sha256:{a.sha256}", "kind": a.kind, "sha256": a.sha256, "version": None} for name, a in inputs.items()
        },
        "outputs": {name: {"kind": a.kind, "sha256": a.sha256} for name, a in outputs.items()},
        "metrics": {"accuracy": 0.75, "loss": 0.5},
        "summary": {},
        "code": {"sha256": "c" * 64, "git_commit": "abc"},
        "environment": {"sha256": "e" * 64, "python": "3.11", "packages": {"torch": "2"}, "device": "cpu"},
        "seed": 7,
        "project": "lfm",
        "parent": {"key": "dag/run", "name": "dag run"},
        "attempt": {"key": f"dag/run/{step}/-1/{number}", "name": f"{step} try {number}", "try_number": number},
        "mlflow": {"run_id": None, "parent_run_id": None},
        "airflow": {"dag_id": "dag", "run_id": "run", "task_id": step, "map_index": -1, "try_number": number, "url": "http://a/b"},
        "started": f"2026-01-01T00:0{number}:00+00:00",
        "finished": f"2026-01-01T00:0{number}:30+00:00",
        "wall_seconds": 30.0,
        "cpu_seconds": 20.0,
        "peak_rss_bytes": 1 << 20,
    }
    return json.loads(json.dumps(record | changes))
