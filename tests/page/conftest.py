"""Airflow's real api-server app with the plugin mounted, over a store with two DAGs' lineage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.config import canonical_json
from lfm_tasks.settings import settings
from tests.tracking.tracking_records import make_record

MLFLOW = {"run_id": "a" * 32, "parent_run_id": None}
SCRIPT = "<script>alert('x')</script>"
USERS = {"ada": "admin", "vic": "viewer"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The app that ``airflow api-server`` serves. Users: ada is an admin; vic is a viewer, who may not read the DAG ``secret``."""
    from airflow.api_fastapi.app import cached_app, purge_cached_app
    from airflow.utils.db import initdb

    passwords = tmp_path_factory.mktemp("auth") / "passwords.json"
    passwords.write_text(json.dumps(dict.fromkeys(USERS, "pass")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "tests.page.one_dag_denied.OneDagDenied")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", ",".join(":".join(user) for user in USERS.items()))
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "s" * 64)
        initdb()
        purge_cached_app()
        yield cached_app()
        purge_cached_app()


@pytest.fixture
def client(server: Any, home: Path) -> Callable[[str | None], TestClient]:
    """A client with the cookie that Airflow gives ``user`` at login; None is nobody."""
    from lfm_tasks.page.sources import sources

    sources.cache_clear()

    def make(user: str | None) -> TestClient:
        made = TestClient(server)
        if user is not None:
            token = made.post("/auth/token", json={"username": user, "password": "pass"}).json()["access_token"]
            made.cookies.set("_token", token)
        return made

    return make


@dataclass
class Lineage:
    """base → tune (DAG open) → model → promote; and base → tune (DAG secret) → hidden → merge (DAG open) → child."""

    store: Store
    root: Path

    def commit(self, kind: str, name: str) -> Artifact:
        directory = self.root / f"{kind}-{name}"
        directory.mkdir(parents=True)
        (directory / "content.txt").write_text(name)
        return self.store.commit(directory, kind)  # type: ignore[arg-type]

    def put(self, step: str, inputs: dict[str, Artifact], outputs: dict[str, Artifact], dag_id: str | None = "open", **changes: Any) -> str:
        number = changes.pop("number", 1)
        run_id = changes.pop("run_id", "run")
        task = {"dag_id": dag_id, "run_id": run_id, "task_id": step, "map_index": -1, "try_number": 1, "url": "", "user": "ada"}
        return self.store.put_record(
            make_record(step, inputs, outputs, number=number, airflow=task if dag_id else None, mlflow=MLFLOW, **changes)
        )

    def move(self, model: str, moves: list[dict[str, Any]]) -> None:
        """Write the store's copies of ledger entries, chained as the ledger chains them."""
        previous = "0" * 64
        for n, move in enumerate(moves, start=1):
            entry = {"format": 1, "model": model, "n": n, "prev_sha256": previous, **move}
            previous = sha256_bytes(canonical_json(entry))
            self.store.backend.put_bytes(f"ledger/{model}/{n}.json", canonical_json(entry))


@pytest.fixture
def lineage(home: Path, tmp_path: Path) -> Lineage:
    return Lineage(Store.open(settings().store), tmp_path / "made")


@pytest.fixture
def two_dags(lineage: Lineage) -> dict[str, str]:
    base, model, hidden, child = (lineage.commit("model", name) for name in ("base", "model", "hidden", "child"))
    named = {"base": base.sha256, "model": model.sha256, "hidden": hidden.sha256, "child": child.sha256}
    config = {"text": SCRIPT, "rank": 8}
    named["tune"] = lineage.put("tune", {"model": base}, {"model": model}, run_id=SCRIPT, method="lora", config=config, number=1)
    named["secret"] = lineage.put("tune", {"model": base}, {"model": hidden}, dag_id="secret", config={"text": "top secret"}, number=2)
    named["merge"] = lineage.put("merge", {"model": hidden, "other": model}, {"model": child}, number=3)
    return named
