"""MLflow for the tests: a fresh SQLite database from a migrated template, and one real server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.settings import Settings
from lfm_tasks.tracking.tracker import Tracker


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables: migrations take seconds, a copy does not."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Settings:
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    shutil.copy(migrated, tmp_path / "home" / "mlflow" / "mlflow.db")
    return Settings(home=tmp_path / "home", mlflow_timeout=5, mlflow_retries=1)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store.open(settings.store)


@pytest.fixture
def tracker(settings: Settings, store: Store) -> Tracker:
    return Tracker.open(settings, store)


@pytest.fixture
def commit(store: Store, tmp_path: Path) -> Callable[..., Artifact]:
    """``commit(kind, name, **files)`` puts a small artifact into the store."""

    def make(kind: str, name: str, files: dict[str, str] | None = None) -> Artifact:
        directory = tmp_path / "made" / f"{kind}-{name}"
        for file, text in (files or {"content.txt": f"{kind} {name}"}).items():
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (directory / file).write_text(text)
        return store.commit(directory, kind)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[tuple[str, Path]]:
    """A real MLflow server that serves ``<store>/mlflow``: (its address, the store's root)."""
    root = tmp_path_factory.mktemp("server")
    shutil.copy(migrated, root / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--serve-artifacts", "--artifacts-destination", f"{root}/store/mlflow"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=root, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _await(address, process, root / "log")
        yield address, root / "store"
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


def _await(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


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
        "config": {"rank": 8, "targets": ["q", "v"], "nested": {"lr": 0.1}, "text": "it's \"quoted\""},
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
