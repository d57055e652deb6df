"""One LoggedModel per model or adapter artifact, and where a stock MLflow client finds its bytes.

The store is the only place of weights. With a ``file://`` store the LoggedModel's own artifact directory, which lies in the
store below ``mlflow/``, is filled with hard links to the artifact's files: no byte is copied, a stock client reads them
through the MLflow server, and what is uploaded over them replaces the link and never the artifact. (Symbolic links do not
do: MLflow refuses a path that resolves outside its artifact root.) With an ``s3://`` store a registered version names the
artifact's own URI.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ConfigError
from lfm_tasks.tracking.filters import one_of
from lfm_tasks.tracking.locks import Locks
from lfm_tasks.tracking.mlflow_connection import Connection

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

SHA256 = "lfm.sha256"
PAGE = "lfm.page"
KINDS = ("model", "adapter")


class LoggedModels:
    """LoggedModels of one experiment."""

    def __init__(self, connection: Connection, experiment_id: str, store: Store, locks: Locks) -> None:
        self._connection, self._experiment_id, self._store, self._locks = connection, experiment_id, store, locks
        self._known: dict[str, LoggedModel] = {}
        self._asked: set[str] = set()

    @property
    def store(self) -> Store:
        return self._store

    @property
    def experiment_id(self) -> str:
        return self._experiment_id

    def ensure(self, kinds: Mapping[str, str], run_id: str | None = None, tags: Mapping[str, str] | None = None) -> dict[str, str]:
        """{sha256: LoggedModel id} for artifacts given as {sha256: kind}; what is not there is made.

        ``run_id`` is the run that made them (None for inputs), ``tags`` say more about them; both are used at the making only.
        """
        self.look_up(kinds)
        for sha256 in kinds.keys() - self._known.keys():
            with self._locks.hold(f"logged model {sha256}"):
                self._known[sha256] = self._connection.create(
                    lambda sha256=sha256: self._search([sha256]).get(sha256),
                    lambda sha256=sha256: self._make(sha256, kinds[sha256], run_id, tags or {}),
                )
        return {sha256: self._ready(sha256, kinds[sha256]) for sha256 in kinds}

    def look_up(self, wanted: Iterable[str]) -> None:
        """Learn of all ``wanted`` artifacts' LoggedModels in one request, once."""
        fresh = set(wanted) - self._asked
        self._asked |= fresh
        self._search(sorted(fresh))

    @property
    def store_uri(self) -> str:
        return self._store.backend.uri

    def kind(self, sha256: str) -> str:
        """Kind of an artifact; raises :class:`ReferenceRefused` when it has gone from the store."""
        return self._store.find(sha256).kind

    def source(self, kind: str, sha256: str, evidence: str) -> dict[str, Any]:
        """What ``create_model_version`` needs to register an artifact: source, run, LoggedModel, tags and a way to its lineage.

        Raises :class:`ConfigError` where MLflow does not serve the store's ``mlflow/`` directory.
        """
        self.ensure({sha256: kind})
        model = self._known[sha256]
        tags = {SHA256: sha256, "lfm.address": f"sha256:{sha256}", "lfm.decision_sha256": evidence}
        tags |= {key: model.tags[key] for key in ("lfm.record", "lfm.base_sha256") if key in model.tags}
        uri = self._store.find(sha256).uri
        source = uri if self._store.backend.local_path("mlflow") is None else self._served(model)
        about = f"[Lineage]({model.tags[PAGE]})" if PAGE in model.tags else None
        return {"source": source, "run_id": model.source_run_id, "model_id": model.model_id, "tags": tags, "description": about}

    def withdraw(self, sha256: str, files: Mapping[str, str]) -> None:
        """Take an artifact's ``files`` {path: sha256} out of its LoggedModel's directory, and tag that it was collected.

        What somebody else has put there stays. Other media than a disk hold no second copy.
        """
        model = self._search([sha256]).get(sha256)
        if model is None:
            return
        directory = self._directory(model.artifact_location)
        for name, digest in files.items() if directory else ():
            path = directory / name
            if path.is_file() and sha256_file(path) == digest:
                path.unlink()
        self._connection.call(self._connection.client.set_logged_model_tags, model.model_id, {"lfm.collected": "true"})

    def _search(self, wanted: list[str]) -> dict[str, LoggedModel]:
        """LoggedModels of ``wanted`` artifacts; the oldest where, against all care, there are several."""
        if not wanted:
            return {}
        found = self._connection.call(
            self._connection.client.search_logged_models, [self._experiment_id], filter_string=one_of(SHA256, wanted), max_results=100
        )
        models = {m.tags[SHA256]: m for m in sorted(found, key=lambda m: (m.creation_timestamp, m.model_id), reverse=True)}
        self._known |= models
        return models

    def _make(self, sha256: str, kind: str, run_id: str | None, tags: Mapping[str, str]) -> LoggedModel:
        tags = {SHA256: sha256, "lfm.kind": kind, "lfm.address": f"sha256:{sha256}", **self._about(kind, sha256), **tags}
        name = re.sub(r"[^\w-]", "-", f"{tags.get('lfm.method') or tags.get('lfm.step') or 'given'}-{kind}-{sha256[:12]}")
        return self._connection.client.create_logged_model(self._experiment_id, name, run_id, tags, model_type=kind)

    def _ready(self, sha256: str, kind: str) -> str:
        """The LoggedModel's id, once its files can be read through MLflow and it says so."""
        model = self._known[sha256]
        if str(model.status) != "READY":
            self._expose(kind, sha256, model.artifact_location)
            self._known[sha256] = model = self._connection.call(self._connection.client.finalize_logged_model, model.model_id, "READY")
        return model.model_id

    def _about(self, kind: str, sha256: str) -> dict[str, str]:
        """What the store says of an artifact: its URI, an adapter's base, the method of a mixture (which no stock client opens)."""
        about = {"lfm.uri": f"{self._store.backend.uri}/artifacts/{kind}/{sha256}"}
        data = self._store.backend.get_bytes(f"artifacts/{kind}/{sha256}/lfm_{'adapter' if kind == 'adapter' else 'mixture'}.json")
        if data is None:
            return about
        content = json.loads(data)
        return about | ({"lfm.base_sha256": content["base"]["sha256"]} if kind == "adapter" else {"lfm.mixture": content["method"]})

    def _expose(self, kind: str, sha256: str, location: str) -> None:
        source = self._store.backend.local_path(f"artifacts/{kind}/{sha256}")
        target = self._directory(location)
        if source is not None and target is not None and source.is_dir():
            for path in sorted(source.rglob("*")):
                if path.is_file() and not path.name.startswith(".tmp-"):
                    _link(path, target / path.relative_to(source))

    def _directory(self, location: str) -> Path | None:
        """Where an artifact location lies on this disk, when it lies in the store."""
        parts, root = urlsplit(location), self._store.backend.local_path("mlflow")
        path = unquote(parts.path).lstrip("/")
        if parts.scheme == "mlflow-artifacts":
            return self._store.backend.local_path(f"mlflow/{path}")
        inside = parts.scheme in ("file", "") and root is not None and Path("/", path).is_relative_to(root)
        return Path("/", path) if inside else None

    def _served(self, model: LoggedModel) -> str:
        """The LoggedModel's location, after a look through MLflow that the artifact's files are there."""
        sha256 = model.tags[SHA256]
        self._expose(model.tags["lfm.kind"], sha256, model.artifact_location)
        names = {file.path for file in self._connection.call(self._connection.client.list_logged_model_artifacts, model.model_id)}
        if not names:
            raise ConfigError(
                f"MLflow at {self._connection.shown_uri} does not serve the store's files ({model.artifact_location} is empty there). "
                f"Start it with --serve-artifacts --artifacts-destination {self._store.backend.uri}/mlflow, or use an s3:// store."
            )
        return model.artifact_location


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the file ``source``, without copying where the file system allows that."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        os.link(source, fresh)
    except OSError:
        shutil.copyfile(source, fresh)
    os.replace(fresh, target)
