"""A memory on disk: an adapter of named tensors, and which method reads them with which options.

Its files have names of their own, so that the record of its rounds (:mod:`lfm_tasks.models.edits`) may stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lfm_tasks.errors import InvalidInput

FORMAT = 1
DESCRIPTION = "lfm_memory.json"
TENSORS = "lfm_memory.safetensors"


@dataclass(frozen=True)
class Memory:
    method: str
    options: Mapping[str, Any]
    """Of the method, with which its edits were made: plain JSON."""
    tensors: Mapping[str, Tensor]
    """The state that the last round of edits left."""


def is_memory(directory: Path) -> bool:
    return (directory / DESCRIPTION).is_file()


def save_memory(directory: Path, memory: Memory) -> None:
    """Beside it, :func:`~lfm_tasks.models.saving.write_entry` names the base. Same memory, same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(memory.tensors.items())}
    save_file(tensors, directory / TENSORS, {"format": "pt"})
    content = {"format": FORMAT, "method": memory.method, "options": dict(memory.options)}
    (directory / DESCRIPTION).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_memory(directory: Path) -> Memory:
    """Raises :class:`InvalidInput` for a format that this version does not know, or a file that is not whole."""
    try:
        content = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InvalidInput(f"{DESCRIPTION} has format {content['format']!r}; this version reads {FORMAT}. Edit the model again.")
        return Memory(content["method"], content["options"], load_file(directory / TENSORS))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{DESCRIPTION} cannot be read ({type(error).__name__}: {error}). Edit the model again.") from None
