"""The manifest of an artifact: its files, their hashes, and its kind. Its own sha256 is the artifact's address.

Nothing in it depends on when, where or by whom the artifact was made, so equal content has an equal address, and
``sha256sum manifest.json`` checks the address with no tool of ours.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.config import Config, canonical_json, parse_config
from lfm_tasks.errors import IntegrityError, InvalidInput
from lfm_tasks.registry import Kind

MANIFEST = "manifest.json"
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 512
SHA256_PATTERN = r"^[0-9a-f]{64}$"


class FileEntry(Config):
    path: str = Field(description="Path below the artifact, with '/' separators.")
    sha256: str = Field(pattern=SHA256_PATTERN, description="SHA-256 of the file.")
    size: int = Field(ge=0, description="Size in bytes.")

    @field_validator("path")
    @classmethod
    def _is_plain(cls, path: str) -> str:
        return check_relative_path(path)


class Manifest(Config):
    format: int = Field(1, description="Version of this layout.")
    kind: Kind = Field(description="What the artifact is.")
    files: tuple[FileEntry, ...] = Field(description="Every file, sorted by path.")

    @property
    def address(self) -> str:
        return sha256_bytes(self.to_bytes())

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes, address: str) -> Manifest:
        """Parse a manifest read from the store; raises :class:`IntegrityError` unless its bytes hash to ``address``."""
        actual = sha256_bytes(data)
        if actual != address:
            raise IntegrityError(f"The manifest of artifact {address} hashes to {actual}: it was changed after it was committed.")
        return parse_config(cls, json.loads(data), where=f"manifest of {address}")


def check_relative_path(path: str) -> str:
    """Return ``path``; raise :class:`InvalidInput` unless it is a plain relative POSIX path inside its directory."""
    parts = PurePosixPath(path).parts
    odd = path.startswith("/") or "\\" in path or ".." in parts or re.search(r"[\x00-\x1f\x7f]", path) or str(PurePosixPath(path)) != path
    if not parts or odd:
        raise InvalidInput(f"{path!r} is not a plain relative path; use names separated by '/', without '..' or control characters.")
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise InvalidInput(f"{path!r} is not valid UTF-8; rename the file.") from None
    if max(lengths) > MAX_NAME_BYTES or sum(lengths) + len(parts) > MAX_PATH_BYTES:
        raise InvalidInput(f"{path[:80]!r}… is too long: a name may have {MAX_NAME_BYTES} bytes, a whole path {MAX_PATH_BYTES}.")
    return path


def list_files(directory: Path) -> list[tuple[str, Path]]:
    """Every file below ``directory`` as (relative POSIX path, path), sorted; symbolic links and devices are refused."""
    found = []
    for path in directory.rglob("*"):
        if path.is_symlink():
            raise InvalidInput(f"{path} is a symbolic link; an artifact holds plain files only. Copy the target instead.")
        if path.is_dir():
            continue
        if not path.is_file():
            raise InvalidInput(f"{path} is a pipe, socket or device; an artifact holds plain files only. Remove it.")
        relative = path.relative_to(directory).as_posix()
        if relative != MANIFEST:
            found.append((check_relative_path(relative), path))
    if not found:
        raise InvalidInput(f"{directory} holds no files; an artifact needs at least one.")
    return sorted(found)
