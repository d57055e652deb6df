"""Checkpoints of one job in the store: ``checkpoints/<job id>/<step>/`` with a manifest last, as artifacts have."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.manifest import MANIFEST, FileEntry, list_files
from lfm_tasks.artifacts.store import Store
from lfm_tasks.config import Config, canonical_json, parse_config
from lfm_tasks.errors import IntegrityError, InvalidInput

KEPT = 2
_log = logging.getLogger(__name__)


class CheckpointManifest(Config):
    format: int = Field(1, description="Version of this layout.")
    step: int = Field(ge=0, description="Training step after which the checkpoint was written.")
    files: tuple[FileEntry, ...] = Field(description="Every file, sorted by path.")


class StoreCheckpoints:
    """Implements :class:`lfm_tasks.step.Checkpoints`. Keeps the newest two, so that a damaged one does not cost the job.

    ``directory`` is local scratch space: checkpoints are written there first, and downloaded to there from a remote store.
    """

    def __init__(self, store: Store, job_id: str, directory: Path) -> None:
        self._store, self._backend = store, store.backend
        self._prefix = f"checkpoints/{job_id}"
        self._directory = directory

    def latest(self) -> Path | None:
        for step in sorted(self._steps(), reverse=True):
            try:
                return self._open(step)
            except IntegrityError as error:
                _log.warning("The checkpoint of step %d is not used: %s", step, error)
        return None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="save-", dir=self._directory) as written:
            write(Path(written))
            self._remove(step)
            entries = self._backend.put_tree(list_files(Path(written)), lambda entries: (self._at(step), _manifest(step, entries)))
        self._store.bytes_written += sum(entry.size for entry in entries)
        self._forget_all_but(step)

    def clear(self) -> None:
        """Forget the job's checkpoints: it ended well."""
        self._backend.delete(self._prefix)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _at(self, step: int) -> str:
        return f"{self._prefix}/{step}"

    def _steps(self) -> list[int]:
        """Steps whose checkpoints are whole, as far as their manifests' presence tells."""
        parts = (key.split("/") for key in self._backend.list(f"{self._prefix}/"))
        return [int(part[2]) for part in parts if len(part) == 4 and part[3] == MANIFEST and part[2].isdecimal()]

    def _open(self, step: int) -> Path:
        """The checkpoint as a verified local directory; raises :class:`IntegrityError` unless every byte is as it was saved."""
        prefix = self._at(step)
        local = self._backend.local_path(prefix)
        directory = local or self._directory / str(step)
        for entry in self._manifest(step).files:
            path = directory / entry.path
            if local is None and not (path.is_file() and sha256_file(path) == entry.sha256):
                self._fetch(f"{prefix}/{entry.path}", path)
            if not path.is_file() or sha256_file(path) != entry.sha256:
                raise IntegrityError(f"its file {entry.path} is missing or was changed after it was saved.")
        return directory

    def _fetch(self, key: str, path: Path) -> None:
        try:
            self._backend.get_file(key, path)
        except FileNotFoundError:
            path.unlink(missing_ok=True)

    def _manifest(self, step: int) -> CheckpointManifest:
        try:
            manifest = parse_config(CheckpointManifest, json.loads(self._backend.get_bytes(f"{self._at(step)}/{MANIFEST}") or b"{}"))
        except (InvalidInput, ValueError) as error:
            raise IntegrityError(f"its manifest cannot be read: {error}") from None
        if manifest.step != step:
            raise IntegrityError(f"its manifest is of step {manifest.step}.")
        return manifest

    def _remove(self, step: int) -> None:
        """The manifest goes first: a checkpoint that is half removed must not look whole."""
        self._backend.delete(f"{self._at(step)}/{MANIFEST}")
        self._backend.delete(self._at(step))

    def _forget_all_but(self, newest: int) -> None:
        """Keep ``newest`` and those just before it. Later ones are of an attempt that could not be resumed from."""
        steps = self._steps()
        kept = sorted(step for step in steps if step <= newest)[-KEPT:]
        for step in set(steps) - set(kept):
            self._remove(step)


def _manifest(step: int, entries: tuple[FileEntry, ...]) -> bytes:
    return canonical_json(CheckpointManifest(step=step, files=entries).model_dump(mode="json"))
