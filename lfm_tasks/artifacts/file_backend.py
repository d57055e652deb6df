"""A store in a directory: temporary file, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlparse

from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.manifest import check_relative_path
from lfm_tasks.errors import StoreUnavailable

_BLOCK = 4 << 20


class FileBackend:
    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.root = Path(unquote(urlparse(uri).path)).resolve()

    def put_file(self, key: str, source: Path) -> str:
        digest = hashlib.sha256()
        with source.open("rb") as reader, self._replacing(key) as writer:
            while block := reader.read(_BLOCK):
                digest.update(block)
                writer.write(block)
        return digest.hexdigest()

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._replacing(key) as writer:
            writer.write(data)

    def get_bytes(self, key: str) -> bytes | None:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def get_file(self, key: str, destination: Path) -> str:
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._path(key), destination)
        return sha256_file(destination)

    def sha256(self, key: str) -> str:
        return sha256_file(self._path(key))

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        base = self.root / prefix
        for path in sorted(base.rglob("*")):
            if path.is_file() and not path.name.startswith(".tmp-"):
                yield path.relative_to(self.root).as_posix()

    def delete(self, prefix: str) -> None:
        path = self._path(prefix.rstrip("/"))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def _path(self, key: str) -> Path:
        return self.root / check_relative_path(key)

    @contextmanager
    def _replacing(self, key: str) -> Iterator[BinaryIO]:
        """A file that takes the place of ``key`` when the block ends well, and leaves no trace when it does not."""
        target = self._path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
        except OSError as error:
            raise _unavailable(error, target) from error
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as writer:
                yield writer
                os.fsync(writer.fileno())
            os.chmod(name, 0o644)
            os.replace(name, target)
            _fsync_directory(target.parent)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            raise _unavailable(error, target) from error
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(error: OSError, target: Path) -> StoreUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"No space left while writing {target}. Nothing was committed; free space and run the step again.")
    return StoreUnavailable(f"Cannot write {target}: {error.strerror}. Nothing was committed.")
