"""The small interface between the store and the medium: ``file://`` and ``s3://`` implement it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from lfm_tasks.artifacts.manifest import FileEntry

Place = Callable[[tuple[FileEntry, ...]], tuple[str, bytes]]
"""From the entries of a tree's files to its prefix and the bytes of its manifest."""


class Backend(Protocol):
    """Keys are relative POSIX paths below the backend's root. Every write is whole or absent."""

    uri: str

    def put_file(self, key: str, source: Path) -> str:
        """Copy ``source`` to ``key`` durably, streaming; return the SHA-256 of the bytes written, hashed on the way."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write a small object durably."""

    def put_tree(self, files: Sequence[tuple[str, Path]], place: Place) -> tuple[FileEntry, ...]:
        """Put ``files`` (relative path, source) and then their manifest where ``place`` says; return their entries.

        Until the manifest is there, nobody sees the tree. Where one is there already, it is left as it is. Leftovers of
        writers that died are removed on the way.
        """

    def get_bytes(self, key: str) -> bytes | None:
        """A small object, or None where it does not exist."""

    def get_range(self, key: str, offset: int, length: int) -> bytearray:
        """Bytes of ``key`` from ``offset`` on, fewer than ``length`` where the file ends before. Raises ``FileNotFoundError``."""

    def get_file(self, key: str, destination: Path) -> str:
        """Stream ``key`` to ``destination``; return the SHA-256 of the bytes read. Raises ``FileNotFoundError``."""

    def sha256(self, key: str) -> str:
        """SHA-256 of the stored bytes, read back from the medium. Raises ``FileNotFoundError``."""

    def exists(self, key: str) -> bool: ...

    def modified(self, key: str) -> datetime | None:
        """When ``key`` was last written (with a time zone), or None where it does not exist."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below ``prefix`` (a directory-like prefix ending in '/' or empty), in sorted order."""

    def delete(self, prefix: str) -> None:
        """Remove everything below ``prefix``; no error where nothing is there."""

    def local_path(self, key: str) -> Path | None:
        """Where ``key`` lies on this machine's disk, or None for a remote medium."""

    def sweep(self, older_than: timedelta) -> int:
        """Remove what writers that died have left; return how many leftovers there were.

        ``older_than`` protects living writers where the medium cannot tell whether a writer is alive.
        """


def open_backend(uri: str) -> Backend:
    """The backend for a store's root URI: ``file:///dir`` or ``s3://bucket/prefix``."""
    if uri.startswith("file://"):
        from lfm_tasks.artifacts.file_backend import FileBackend

        return FileBackend(uri)
    if uri.startswith("s3://"):
        from lfm_tasks.artifacts.s3_backend import S3Backend

        return S3Backend.from_settings(uri)
    from lfm_tasks.errors import ConfigError

    raise ConfigError(f"The store {uri!r} has an unknown scheme. Set LFM_STORE_URI to file:///directory or s3://bucket/prefix.")
