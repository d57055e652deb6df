"""The object store: immutable artifacts, records, the step cache, checkpoints. Layout as in the README.

The commit point of an artifact is its ``manifest.json``, written last: without it the artifact does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

from lfm_tasks.artifacts.backend import Backend, open_backend
from lfm_tasks.artifacts.hashing import sha256_bytes, sha256_file
from lfm_tasks.artifacts.integrity import changed, gone
from lfm_tasks.artifacts.manifest import MANIFEST, FileEntry, Manifest, list_files
from lfm_tasks.artifacts.remote import RemoteFile
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import IntegrityError, ReferenceRefused
from lfm_tasks.registry import Kind

STALE = timedelta(days=1)
"""Uploads that began longer ago belong to nobody who is still alive."""
WEIGHTS = ".safetensors"
"""Files that can be read by ranges where they are; all others are small."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Artifact:
    """An artifact that exists: its kind, its address and its manifest."""

    kind: Kind
    sha256: str
    manifest: Manifest
    uri: str


class Store:
    """``bytes_read`` and ``bytes_written`` count what this object moved: files of artifacts and checkpoints, and records."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.bytes_read = self.bytes_written = 0

    @classmethod
    def open(cls, uri: str) -> Store:
        return cls(open_backend(uri))

    def commit(self, directory: Path, kind: Kind) -> Artifact:
        """Put ``directory`` in place as an artifact; committing equal content again is a no-op that returns the same address.

        Raises :class:`StoreUnavailable` when the medium fails (nothing is committed then), and
        :class:`IntegrityError` when a file changed while it was copied.
        """

        def place(entries: tuple[FileEntry, ...]) -> tuple[str, bytes]:
            manifest = Manifest(kind=kind, files=entries)
            return _prefix(kind, manifest.address), manifest.to_bytes()

        manifest = Manifest(kind=kind, files=self.backend.put_tree(list_files(directory), place))
        self.bytes_written += manifest.size
        return self._artifact(manifest)

    def find(self, address: str) -> Artifact:
        """The artifact at ``address``; raises :class:`ReferenceRefused` where there is none."""
        for kind in KINDS:
            data = self.backend.get_bytes(f"{_prefix(kind, address)}/{MANIFEST}")
            if data is not None:
                return self._artifact(Manifest.from_bytes(data, address))
        raise ReferenceRefused(f"There is no artifact sha256:{address} in {self.backend.uri}. `lfm models` lists registered ones.")

    def materialise(self, artifact: Artifact, cache: Path) -> Path:
        """A local directory with the artifact's verified bytes: in place for ``file://``, else downloaded below ``cache``.

        Raises :class:`IntegrityError` naming the first file whose bytes are not those that were committed.
        """
        prefix = _prefix(artifact.kind, artifact.sha256)
        local = self.backend.local_path(prefix)
        if local is not None:
            self.verify(artifact)
            _check_nothing_else(artifact, local)
            return local
        self._download(artifact, artifact.manifest.files, cache)
        return cache / artifact.sha256

    def materialise_small(self, artifact: Artifact, cache: Path) -> tuple[Path, dict[str, RemoteFile]]:
        """As :meth:`materialise`, but of a remote store's artifact the weight files that ``cache`` lacks stay where they are.

        They are returned by their paths; what is read of one counts once :meth:`RemoteFile.verify` has returned.
        """
        prefix = _prefix(artifact.kind, artifact.sha256)
        if self.backend.local_path(prefix) is not None:
            return self.materialise(artifact, cache), {}
        files = artifact.manifest.files
        absent = {one.path for one in files if one.path.endswith(WEIGHTS) and not _has_size(cache / artifact.sha256 / one.path, one)}
        self._download(artifact, [one for one in files if one.path not in absent], cache)
        remote = {
            one.path: RemoteFile(self.backend, f"{prefix}/{one.path}", one, _name(artifact, one)) for one in files if one.path in absent
        }
        return cache / artifact.sha256, remote

    def verify(self, artifact: Artifact) -> None:
        """Read every byte back and compare; raises :class:`IntegrityError` naming the first file that differs."""
        for entry in artifact.manifest.files:
            _check(artifact, entry, self.backend.sha256)
            self.bytes_read += entry.size

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact, its manifest first: what is half deleted does not exist."""
        prefix = _prefix(artifact.kind, artifact.sha256)
        self.backend.delete(f"{prefix}/{MANIFEST}")
        self.backend.delete(prefix)

    def forget_cached(self, addresses: Set[str]) -> None:
        """Drop the cache entries whose records made one of the artifacts ``addresses``."""
        for record_address, record in self.records():
            made = {output["sha256"] for output in record["outputs"].values()}
            if made & addresses and self.cached(record["cache_key"]) == record_address:
                self.backend.delete(f"cache/{record['cache_key']}.json")

    def remnants(self) -> list[str]:
        """Prefixes below ``artifacts/`` without a manifest: half deleted, or on S3 perhaps still being written."""
        trees: dict[str, bool] = {}
        for key in self.backend.list("artifacts/"):
            parts = key.split("/")
            prefix = "/".join(parts[:3])
            trees[prefix] = trees.get(prefix, False) or (len(parts) == 4 and parts[3] == MANIFEST)
        return [prefix for prefix, whole in trees.items() if not whole]

    def sweep(self, older_than: timedelta = STALE) -> int:
        """Remove what killed writers have left in the store; return how many leftovers there were. Every commit does so too."""
        return self.backend.sweep(older_than)

    def artifacts(self) -> Iterator[tuple[Kind, str]]:
        """(kind, address) of every committed artifact."""
        for key in self.backend.list("artifacts/"):
            parts = key.split("/")
            if len(parts) == 4 and parts[3] == MANIFEST:
                yield parts[1], parts[2]  # type: ignore[misc]

    def put_code(self, files: Mapping[str, str]) -> None:
        """Keep which files, {path: sha256}, a code digest stands for, so that a later one can be told from it file by file."""
        data = code_listing(files)
        key = f"code/{sha256_bytes(data)}.txt"
        if not self.backend.exists(key):
            self.backend.put_bytes(key, data)

    def get_code(self, digest: str) -> dict[str, str]:
        """The files of a code digest; empty where nobody kept them."""
        data = self.backend.get_bytes(f"code/{digest}.txt") or b""
        lines = data.decode().splitlines() if sha256_bytes(data) == digest else []
        return dict(line.rsplit(" ", 1) for line in lines)

    # Records are content-addressed JSON; the cache maps a job's key to the record that answers it.

    def put_record(self, record: dict[str, Any]) -> str:
        data = canonical_json(record)
        address = sha256_bytes(data)
        self.backend.put_bytes(f"records/{address}.json", data)
        self.bytes_written += len(data)
        return address

    def get_record(self, address: str) -> dict[str, Any]:
        data = self.backend.get_bytes(f"records/{address}.json")
        if data is None:
            raise ReferenceRefused(f"There is no record {address} in {self.backend.uri}.")
        if sha256_bytes(data) != address:
            raise IntegrityError(f"Record {address} was changed after it was written.")
        self.bytes_read += len(data)
        return json.loads(data)

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key in self.backend.list("records/"):
            address = key.removeprefix("records/").removesuffix(".json")
            yield address, self.get_record(address)

    def cached(self, cache_key: str) -> str | None:
        """Address of the record that answers ``cache_key``."""
        data = self.backend.get_bytes(f"cache/{cache_key}.json")
        return None if data is None else json.loads(data)["record"]

    def put_cached(self, cache_key: str, record: str) -> None:
        self.backend.put_bytes(f"cache/{cache_key}.json", canonical_json({"record": record}))

    def _download(self, artifact: Artifact, files: Iterable[FileEntry], cache: Path) -> None:
        for entry in files:
            path = cache / artifact.sha256 / entry.path
            if not (_has_size(path, entry) and sha256_file(path) == entry.sha256):
                _check(artifact, entry, lambda key, path=path: self.backend.get_file(key, path))
                self.bytes_read += entry.size

    def _artifact(self, manifest: Manifest) -> Artifact:
        address = manifest.address
        return Artifact(manifest.kind, address, manifest, f"{self.backend.uri}/{_prefix(manifest.kind, address)}")


def code_listing(files: Mapping[str, str]) -> bytes:
    """One line per file, path and SHA-256; the SHA-256 of this text is the code's digest."""
    return "".join(f"{path} {sha256}\n" for path, sha256 in files.items()).encode()


def _prefix(kind: Kind, address: str) -> str:
    return f"artifacts/{kind}/{address}"


def _has_size(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size


def _name(artifact: Artifact, entry: FileEntry) -> str:
    return f"{entry.path} of {artifact.kind} sha256:{artifact.sha256}"


def _check(artifact: Artifact, entry: FileEntry, read: Callable[[str], str]) -> None:
    """Compare the file with its entry; ``read`` takes its key and returns the SHA-256 of its bytes."""
    name = _name(artifact, entry)
    try:
        actual = read(f"{_prefix(artifact.kind, artifact.sha256)}/{entry.path}")
    except FileNotFoundError:
        raise gone(name) from None
    if actual != entry.sha256:
        raise changed(name, f"sha256 {actual}", entry.sha256)


def _check_nothing_else(artifact: Artifact, directory: Path) -> None:
    """Refuse a directory that holds a file which nobody committed: a library would load it beside the others."""
    known = {entry.path for entry in artifact.manifest.files}
    for name, _ in list_files(directory):
        if name not in known:
            raise IntegrityError(f"{name} was added to {artifact.kind} sha256:{artifact.sha256} after it was committed. Remove it.")
