"""What an attempt costs in requests to a real server, and that an s3:// store's versions name the store's own URI."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.utils import rest_utils

from lfm_tasks.artifacts.file_backend import FileBackend
from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.ledger import Ledger
from lfm_tasks.tracking.mlflow_connection import Connection
from lfm_tasks.tracking.tracker import Tracker
from tests.tracking.tracking_records import make_record


class RemoteBackend(FileBackend):
    """Files that are not on this disk, as far as anybody can tell."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = "s3://bucket/prefix"

    def local_path(self, key: str) -> None:
        return None


@pytest.fixture
def remote(server: tuple[str, Path], tmp_path: Path) -> Tracker:
    settings = Settings(home=tmp_path, mlflow_uri=server[0])
    store = Store(RemoteBackend(f"file://{tmp_path}/store"))
    return Tracker(Connection(settings), store, Ledger(settings.ledger, store), "remote")


@pytest.mark.live
def test_versions_of_a_remote_store_name_its_own_uri(server: tuple[str, Path], remote: Tracker, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    artifact = remote.store.commit(tmp_path / "model", "model")
    given = Input(f"sha256:{artifact.sha256}", "model", artifact.sha256, tmp_path / "model")
    remote.registry.promote("remote", "champion", given, None, "", "d" * 64)
    version = MlflowClient(server[0]).get_model_version_by_alias("remote", "champion")
    assert version.source == f"s3://bucket/prefix/artifacts/model/{artifact.sha256}"


@pytest.mark.live
def test_an_attempt_costs_few_requests(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, root = server
    sent: Counter[str] = Counter()
    original = rest_utils._get_http_response_with_retries

    def counted(method: str, url: str, *arguments: object, **options: object) -> object:
        sent[f"{method} {url.removeprefix(address)}"] += 1
        return original(method, url, *arguments, **options)

    monkeypatch.setattr(rest_utils, "_get_http_response_with_retries", counted)
    store = Store.open(f"file://{root}")
    made = {}
    for kind in ("model", "dataset", "adapter"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "file").write_text(f"requests {kind}")
        made[kind] = store.commit(tmp_path / kind, kind)
    record = make_record("tune", {"model": made["model"], "dataset": made["dataset"]}, {"adapter": made["adapter"]}, project="costs")
    begun = time.monotonic()
    tracker = Tracker.open(Settings(home=tmp_path, store_uri=f"file://{root}", mlflow_uri=address, project="costs"), store)
    run_id = tracker.open_attempt(tracker.parent("dag/costs", "dag", {}), "dag/costs/tune/1", "tune", {})
    record["mlflow"]["run_id"] = run_id
    tracker.log_record(store.put_record(record), record)
    tracker.close_attempt(run_id, "FINISHED")
    print(f"\n{sum(sent.values())} requests in {time.monotonic() - begun:.2f} s: {dict(sent)}")
    assert sum(sent.values()) <= 24
