"""Files on a local disk: read with changes noticed, written durably, hashed on the way, in constant memory."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from lfm_tasks.artifacts.hashing import BLOCK
from lfm_tasks.errors import IntegrityError, InvalidInput, StoreUnavailable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_blocks(path: Path, size: int = BLOCK) -> Iterator[bytes]:
    """The file's bytes in blocks of ``size`` (the last may be shorter).

    Raises :class:`IntegrityError` when the file changes meanwhile: what was read would be of two states.
    """
    try:
        with path.open("rb") as reader:
            before = os.fstat(reader.fileno())
            while block := reader.read(size):
                yield block
            after = path.stat()
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror}. Nothing was committed.") from error
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        raise IntegrityError(f"{path} changed while it was being read; nothing was committed. Run the step again.")


def write_file(path: Path, blocks: Iterable[bytes]) -> tuple[str, int]:
    """Write a new file and flush it to the medium; return the SHA-256 and the number of the bytes written."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as writer:
        for block in blocks:
            digest.update(block)
            writer.write(block)
            size += len(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def replace_file(path: Path, blocks: Iterable[bytes]) -> str:
    """Put a file in place of ``path``, whole or not at all; return the SHA-256 of the bytes written."""
    part = path.with_name(f".part-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, _ = write_file(part, blocks)
        os.replace(part, path)
    except OSError as error:
        raise cannot_write(error, path) from error
    finally:
        part.unlink(missing_ok=True)
    return digest


def make_directory(path: Path) -> None:
    """Make ``path`` and what is missing above it, durably."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(error: OSError, path: Path) -> StoreUnavailable:
    if error.errno in _NO_ROOM:
        return StoreUnavailable(f"No space left while writing to {path}. Nothing was committed; free space and run the step again.")
    return StoreUnavailable(f"Cannot write to {path}: {error.strerror}. Nothing was committed; check the directory and its permissions.")


def cannot_read(error: OSError, path: Path) -> StoreUnavailable:
    return StoreUnavailable(f"Cannot read {path}: {error.strerror}. Check the disk and the permissions of the store.")
