"""State of the whole session lives in one temporary directory: nothing of the developer's own home is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_HOME = Path(os.environ.get("LFM_HOME", ROOT / ".lfm")).resolve()
_SESSION = Path(tempfile.mkdtemp(prefix="lfm-tests-"))

LONG = ("live", "dags", "oracle")
"""Folders whose files take minutes."""

# Airflow reads these when it is first imported; a test that needs a server of its own starts one with its own values.
os.environ.update(
    AIRFLOW_HOME=str(_SESSION / "airflow"),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_SESSION / 'airflow.db'}",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
    AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL="error",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # the workers of pytest have the processors among them
)
for _name in [name for name in os.environ if name.startswith(("LFM_", "MLFLOW_TRACKING"))]:
    if _name not in ("LFM_HOME",):
        del os.environ[_name]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """A SQLite file with MLflow's tables: migrations take seconds, a copy does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    """A real S3 server, with the bucket that the tests of the store use."""
    from tests.artifacts.media import BUCKET, client
    from tests.environments import Unavailable, skip_or_fail
    from tests.swift_server import running_swift

    server = running_swift(tmp_path_factory.mktemp("swift"), _HOME / "test" / "swift-venv")
    try:
        started = server.__enter__()
    except Unavailable as error:
        skip_or_fail(error)
    try:
        client(started).create_bucket(Bucket=BUCKET)
        yield started
    finally:
        server.__exit__(None, None, None)


@pytest.fixture
def home(tmp_path, monkeypatch, migrated):
    """A home of its own: store, MLflow and ledger in files below ``tmp_path``."""
    from lfm_tasks.settings import settings

    path = tmp_path / "home"
    (path / "mlflow").mkdir(parents=True)
    shutil.copy(migrated, path / "mlflow" / "mlflow.db")
    monkeypatch.setenv("LFM_HOME", str(path))
    settings.cache_clear()
    yield path
    settings.cache_clear()


@pytest.fixture(scope="session")
def warm():
    """An interpreter for LFM_INTERPRETER whose steps need not import anything."""
    from tests.warm import warm_interpreter

    with tempfile.TemporaryDirectory(prefix="lfm-warm-") as directory, warm_interpreter(Path(directory)) as interpreter:
        yield interpreter


def pytest_collection_modifyitems(items):
    """What takes minutes begins first, so that no worker is busy with it when the others have nothing left."""
    items.sort(key=lambda item: item.path.relative_to(ROOT / "tests").parts[0] not in LONG)


def pytest_sessionfinish():
    shutil.rmtree(_SESSION, ignore_errors=True)
