"""Statistics artifacts: what a model's gradients or activations on some data say of each of its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lfm_tasks.errors import InvalidInput
from lfm_tasks.step import Input

DESCRIPTION = "statistics.json"
TENSORS = "statistics.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Statistics:
    """``description`` names ``kind``, ``model`` and ``dataset`` (hashes), ``options``, ``split``, ``rows``, ``tokens``; under
    ``tensors``, by the names in the model's files, ``stored_as`` and of a Gram matrix ``input_axis`` and ``tokens``."""

    reference: str
    path: Path
    description: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.description["kind"]

    @property
    def tensors(self) -> dict[str, dict[str, Any]]:
        return self.description["tensors"]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(self.tensors[name]["stored_as"]).get_shape())

    def read(self, name: str) -> Tensor:
        """A view of the mapped file: never write to it."""
        return self._file.get_tensor(self.tensors[name]["stored_as"])

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.path / TENSORS, framework="pt")


def read_statistics(source: Input) -> Statistics:
    path = source.path / DESCRIPTION
    if not path.is_file():
        raise InvalidInput(f"{source.reference} has no {DESCRIPTION}: it is no statistics. Make them by the step 'statistics'.")
    return Statistics(source.reference, source.path, json.loads(path.read_text()))


def write_statistics(directory: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, directory / TENSORS)
    content = json.dumps({"format": FORMAT, **description}, indent=2, sort_keys=True)
    (directory / DESCRIPTION).write_text(content + "\n")
