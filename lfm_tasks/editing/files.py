"""What lies beside the rounds in an edit's directory: the method's state, what was found for each fact, the facts, the quarantine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

STATE = "edit_state.safetensors"
CACHE = "edit_cache.safetensors"
QUARANTINE = "quarantine.json"


def write_state(directory: Path, state: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}, directory / STATE)


def read_state(directory: Path) -> dict[str, Tensor]:
    """Nothing where none was kept."""
    path = directory / STATE
    return load_file(path) if path.is_file() else {}


def write_caches(directory: Path, caches: Sequence[Mapping[str, Tensor]]) -> None:
    """One for each round."""
    tensors = {f"{place}.{name}": tensor.cpu().contiguous() for place, cache in enumerate(caches) for name, tensor in cache.items()}
    save_file(tensors, directory / CACHE)


def read_caches(directory: Path, rounds: int) -> list[dict[str, Tensor]]:
    """Of each of ``rounds``; nothing where none was kept."""
    path, found = directory / CACHE, [{} for _ in range(rounds)]
    for name, tensor in load_file(path).items() if path.is_file() else ():
        place, _, key = name.partition(".")
        found[int(place)][key] = tensor
    return found


def write_quarantine(directory: Path, quarantined: Mapping[str, Any]) -> None:
    (directory / QUARANTINE).write_text(json.dumps(quarantined, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
