"""Inputs whose weights stay where they are, as those of a remote store do: read by ranges, verified, counted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lfm_tasks.artifacts.file_backend import FileBackend
from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.manifest import FileEntry
from lfm_tasks.artifacts.remote import RemoteFile
from lfm_tasks.step import Input


def far(source: Input, here: Path) -> Input:
    """``here`` gets all but the weight files."""
    shutil.copytree(source.path, here, ignore=shutil.ignore_patterns("*.safetensors"))
    backend = FileBackend(f"file://{source.path}")
    files = sorted(path.relative_to(source.path).as_posix() for path in source.path.rglob("*.safetensors"))
    entries = [FileEntry(path=file, sha256=sha256_file(source.path / file), size=(source.path / file).stat().st_size) for file in files]
    return replace(source, path=here, remote={one.path: RemoteFile(backend, one.path, one, one.path) for one in entries})


def models_far(inputs: Mapping[str, Input], root: Path) -> dict[str, Input]:
    return {name: far(one, root / name) if one.kind == "model" else one for name, one in inputs.items()}


def check_read_once(inputs: Mapping[str, Input]) -> None:
    """Every file is what was committed, and no byte of it came twice, those read to verify it included."""
    for one in inputs.values():
        for file in one.remote.values():
            file.verify()
            assert file.bytes_read == file.size, (one.reference, file.name)
