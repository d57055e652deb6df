"""MLflow for the tests: a fresh SQLite database from a migrated template, and one real server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.settings import Settings
from lfm_tasks.tracking.tracker import Tracker


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
    with running_server(root, migrated, root / "store") as address:
        yield address, root / "store"


@contextmanager
def running_server(root: Path, migrated: Path, store: Path) -> Iterator[str]:
    """A real MLflow server with an empty database in ``root``, which serves ``store/mlflow``; its address."""
    shutil.copy(migrated, root / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--serve-artifacts", "--artifacts-destination", f"{store}/mlflow"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=root, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _await(address, process, root / "log")
        yield address
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
