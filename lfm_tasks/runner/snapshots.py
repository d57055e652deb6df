"""Copy what a ``file://`` or ``s3://`` reference names into a directory of plain files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from lfm_tasks.artifacts.backend import open_backend
from lfm_tasks.artifacts.manifest import check_relative_path
from lfm_tasks.errors import ReferenceRefused

DATA_FILES = ("*.jsonl", "*.csv", "*.parquet", "*.json", "*.md", "*.txt")
EVERY_FILE = ("*",)


def copy_files(uri: str, prefixes: tuple[str, ...], patterns: tuple[str, ...], target: Path) -> list[str]:
    """Copy the file or the directory ``uri``, hidden files aside; return the names that were copied.

    Raises :class:`ReferenceRefused` when nothing is there, or a symbolic link leads outside the allowed ``prefixes``.
    """
    roots = [Path(prefix.removeprefix("file://")).resolve() for prefix in prefixes if prefix.startswith("file://")]
    source = Path(uri.removeprefix("file://"))
    if not source.exists():
        raise ReferenceRefused(f"{uri} names nothing on this machine. Check the path, or whether the folder is mounted here.")
    _check_inside(source, uri, roots)
    return copy_tree(source, patterns, target, roots, uri)


def copy_tree(source: Path, patterns: tuple[str, ...], target: Path, roots: list[Path], label: str) -> list[str]:
    """Copy ``source``, a file or a directory, following links to files that lie below one of ``roots``."""
    copied = []
    for name, path in _walk(source, label):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            _check_inside(path, f"{label}: {name}", roots)
            copied.append(check_relative_path(name))
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    return copied


def copy_objects(uri: str, patterns: tuple[str, ...], target: Path) -> list[str]:
    """Download the object or everything below the prefix ``uri``, hidden files aside; return the names that were copied."""
    backend = open_backend(uri.rstrip("/"))
    names = [name for name in backend.list("") if not _hidden(name)]
    if not names and uri.removeprefix("s3://").rstrip("/").count("/"):
        parent, _, name = uri.rstrip("/").rpartition("/")
        backend = open_backend(parent)
        names = [name] if backend.exists(name) else []
    if not names:
        raise ReferenceRefused(f"{uri} names nothing in the bucket. Check the path.")
    copied = [check_relative_path(name) for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    for name in copied:
        backend.get_file(name, target / name)
    return copied


def _walk(source: Path, label: str) -> Iterator[tuple[str, Path]]:
    if source.is_file():
        yield source.name, source
        return
    for directory, folders, files in os.walk(source):
        here = Path(directory)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in folders:
            if (here / name).is_symlink():
                raise ReferenceRefused(f"{label}: {name} is a symbolic link to a directory. Put the directory itself there.")
        for name in sorted(files):
            if not _hidden(name):
                yield (here / name).relative_to(source).as_posix(), here / name


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _check_inside(path: Path, label: str, roots: list[Path]) -> None:
    real = path.resolve()
    if not any(real.is_relative_to(root) for root in roots):
        raise ReferenceRefused(f"{label} leads outside the allowed prefixes by a symbolic link. Put the file itself there.")
    if not (real.is_file() or real.is_dir()):
        raise ReferenceRefused(f"{label} is neither a file nor a directory.")
