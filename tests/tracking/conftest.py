"""MLflow for the tests: a fresh SQLite database from a migrated template, and one real server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.settings import Settings
from lfm_tasks.tracking.tracker import Tracker
from tests.mlflow_server import MlflowServer


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
    server = MlflowServer(root, migrated, store)
    server.start()
    try:
        yield server.address
    finally:
        server.stop()
