"""Packages of Debian: got by apt, of the suite that the machine is configured for, and read without being installed."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lfm_tasks.errors import InvalidInput, Unavailable

MAGIC, HEADER = b"!<arch>\n", 60


def download(package: str, version: str, directory: Path, timeout: float) -> Path:
    """The package file. Raises :class:`Unavailable` where apt is not there, or does not get it."""
    directory.mkdir()
    command = ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        raise Unavailable(f"apt-get is not there, and {package} is a package of Debian. Run this on Debian or Ubuntu.") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"apt-get did not get {package}={version} within {timeout:.0f} s. Check the connection and try again.") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Unavailable(f"apt-get cannot get {package}={version}: {lines[-1]} Run `apt-get update` as root, then try again.")
    return next(directory.iterdir())


def members(package: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(path below the root, reader) of every file that the package would install."""
    name, data = next(((name, data) for name, data in _archive(package.read_bytes()) if name.startswith("data.tar")), ("", b""))
    if not name:
        raise InvalidInput(f"{package.name} is no package of Debian: it has no data.tar. Fetch it again.")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            reader = archive.extractfile(member) if member.isfile() else None
            if reader is not None:
                yield member.name.removeprefix("./"), reader


def _archive(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the members of a Unix archive: a header of 60 bytes each, contents at even offsets."""
    place = len(MAGIC)
    while data.startswith(MAGIC) and place + HEADER <= len(data):
        header = data[place : place + HEADER]
        size = int(header[48:58])
        yield header[:16].decode().strip().rstrip("/"), data[place + HEADER : place + HEADER + size]
        place += HEADER + size + size % 2
