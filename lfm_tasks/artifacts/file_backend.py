"""A store in a directory: everything is written in a workspace of its own, flushed, and renamed into place."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlparse

from lfm_tasks.artifacts.backend import Place
from lfm_tasks.artifacts.disk import cannot_read, cannot_write, make_directory, read_blocks, replace_file, sync_directory, write_file
from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.manifest import MANIFEST, FileEntry, check_relative_path

WORKSPACES = ".tmp"
_LOCK = "lock"


class FileBackend:
    """One file per key below the root.

    A workspace is ``.tmp/<random>/`` with a lock that its process holds: the kernel lets go of it when the process
    dies, however it dies, and then :meth:`sweep` may remove the workspace.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.root = Path(unquote(urlparse(uri).path)).resolve()

    def put_file(self, key: str, source: Path) -> str:
        with self._workspace() as work:
            digest, _ = write_file(work / "file", read_blocks(source))
            self._rename(work / "file", key)
        return digest

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._workspace() as work:
            write_file(work / "file", [data])
            self._rename(work / "file", key)

    def put_tree(self, files: Sequence[tuple[str, Path]], place: Place) -> tuple[FileEntry, ...]:
        """One pass over the sources: the address is known when the copies are there, and one rename makes them visible."""
        self.sweep()
        with self._workspace() as work:
            tree = work / "tree"
            entries = tuple(_copy(source, tree, name) for name, source in files)
            prefix, manifest = place(entries)
            write_file(tree / MANIFEST, [manifest])
            for directory, _, _ in os.walk(tree, topdown=False):
                sync_directory(Path(directory))
            self._publish(tree, prefix)
        return entries

    def get_bytes(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise cannot_read(error, path) from error

    def get_range(self, key: str, offset: int, length: int) -> bytearray:
        path = self._existing(key)
        try:
            with path.open("rb") as reader:
                reader.seek(offset)
                return bytearray(reader.read(length))
        except OSError as error:
            raise cannot_read(error, path) from error

    def get_file(self, key: str, destination: Path) -> str:
        return replace_file(destination, read_blocks(self._existing(key)))

    def sha256(self, key: str) -> str:
        path = self._existing(key)
        try:
            return sha256_file(path)
        except OSError as error:
            raise cannot_read(error, path) from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def modified(self, key: str) -> datetime | None:
        try:
            return datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, prefix: str) -> Iterator[str]:
        found: list[str] = []
        for directory, folders, files in os.walk(self.root / prefix):
            base = Path(directory).relative_to(self.root).as_posix()
            if base == ".":
                folders[:] = [name for name in folders if name != WORKSPACES]
            found += files if base == "." else [f"{base}/{name}" for name in files]
        yield from sorted(found)

    def delete(self, prefix: str) -> None:
        path = self._path(prefix.rstrip("/"))
        with self._workspace() as work, suppress(FileNotFoundError):
            os.rename(path, work / "deleted")
            sync_directory(path.parent)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def sweep(self, older_than: timedelta = timedelta(0)) -> int:
        """Remove workspaces whose process is gone; ``older_than`` is not needed here, because their locks tell."""
        swept = 0
        with suppress(FileNotFoundError):
            for work in sorted((self.root / WORKSPACES).iterdir()):
                swept += _remove_if_abandoned(work)
        return swept

    def _path(self, key: str) -> Path:
        return self.root / check_relative_path(key)

    def _existing(self, key: str) -> Path:
        if not self.exists(key):
            raise FileNotFoundError(errno.ENOENT, "There is no such key in the store", key)
        return self._path(key)

    def _rename(self, written: Path, key: str) -> None:
        target = self._path(key)
        make_directory(target.parent)
        os.replace(written, target)
        sync_directory(target.parent)

    def _publish(self, tree: Path, prefix: str) -> None:
        target = self._path(prefix)
        make_directory(target.parent)
        try:
            os.rename(tree, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if (target / MANIFEST).is_file():
                return
            os.rename(target, tree.with_name("incomplete"))
            os.rename(tree, target)
        sync_directory(target.parent)

    @contextmanager
    def _workspace(self) -> Iterator[Path]:
        """A directory on the store's own file system that nobody sees; gone when the block ends."""
        try:
            work, lock = _claim(self.root / WORKSPACES)
            try:
                yield work
            finally:
                try:
                    _discard(work)
                finally:
                    os.close(lock)
        except OSError as error:
            raise cannot_write(error, self.root) from error


def _copy(source: Path, tree: Path, name: str) -> FileEntry:
    target = tree / name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = write_file(target, read_blocks(source))
    return FileEntry(path=name, sha256=digest, size=size)


def _claim(workspaces: Path) -> tuple[Path, int]:
    """A new workspace and its held lock. A sweeper that came between making and locking it has removed it: try again."""
    make_directory(workspaces)
    while True:
        work = workspaces / secrets.token_hex(8)
        work.mkdir()
        with suppress(FileNotFoundError):
            lock = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return work, lock
            os.close(lock)


def _remove_if_abandoned(work: Path) -> bool:
    try:
        lock = os.open(work / _LOCK, os.O_RDWR)
    except OSError:
        with suppress(OSError):
            work.rmdir()
        return not work.exists()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        _discard(work)
        return True
    finally:
        os.close(lock)


def _discard(work: Path) -> None:
    """Remove a workspace, its lock last, so that a sweeper that is killed here leaves what the next one can remove."""
    with suppress(FileNotFoundError):
        for child in work.iterdir():
            if child.is_dir():
                shutil.rmtree(child, ignore_errors=True)
            elif child.name != _LOCK:
                child.unlink(missing_ok=True)
        (work / _LOCK).unlink(missing_ok=True)
        work.rmdir()
