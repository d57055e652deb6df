"""Checkpoints of models as named tensors: read in place from safetensors files, sharded or not, for any architecture."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lfm_tasks.errors import InvalidInput

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Checkpoint:
    """The weights of one model directory. Tensors are views of the mapped files: nothing is copied, nothing may be written."""

    def __init__(self, name: str, key: str, directory: Path) -> None:
        """``name`` for messages; ``key`` is the content's hash."""
        self.name, self.key, self.directory = name, key, directory
        self._files = {file: safe_open(directory / file, framework="pt") for file in self._file_names()}

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Raises :class:`InvalidInput` for a dtype that cannot be merged (quantised weights)."""
        found = {}
        for file, opened in self._files.items():
            for name in opened.keys():  # noqa: SIM118 (safe_open is no mapping)
                entry = opened.get_slice(name)
                if entry.get_dtype() not in DTYPES:
                    raise InvalidInput(
                        f"{self.name}: {name} is stored as {entry.get_dtype()}. Allowed: {', '.join(DTYPES)}. Save the model unquantised."
                    )
                found[name] = TensorInfo(file, DTYPES[entry.get_dtype()], tuple(entry.get_shape()))
        return found

    def read(self, name: str) -> Tensor:
        return self._files[self.tensors[name].file].get_tensor(name)

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token to id, added tokens included; None where the directory has no ``tokenizer.json``."""
        return read_vocabulary(self.directory)

    def inside(self, backbone: Checkpoint) -> Checkpoint:
        """The part of this model that ``backbone`` is, by the backbone's names; this model itself where it is no such thing.

        A classifier of a bare encoder holds the encoder below a prefix (``bert.``) and a head beside it.
        """
        first = next(iter(backbone.tensors), "")
        for prefix in [name.removesuffix(first) for name in self.tensors if name.endswith(f".{first}")]:
            if all(prefix + name in self.tensors for name in backbone.tensors):
                return Part(self, prefix, list(backbone.tensors))
        return self

    def _file_names(self) -> list[str]:
        if (self.directory / INDEX).is_file():
            return sorted(set(json.loads((self.directory / INDEX).read_text())["weight_map"].values()))
        if (self.directory / SINGLE).is_file():
            return [SINGLE]
        found = sorted(path.name for path in self.directory.glob("*.safetensors"))
        if len(found) != 1:
            raise InvalidInput(
                f"{self.name} has no {SINGLE} and no {INDEX}; its safetensors files: {', '.join(found) or 'none'}. "
                "Save the model by save_pretrained."
            )
        return found


class Part(Checkpoint):
    """The tensors of ``whole`` named ``prefix`` + one of ``names``, without the prefix."""

    def __init__(self, whole: Checkpoint, prefix: str, names: list[str]) -> None:
        self.name, self.key, self.directory = whole.name, whole.key, whole.directory
        self.whole, self.prefix, self.names = whole, prefix, names

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: self.whole.tensors[self.prefix + name] for name in self.names}

    def read(self, name: str) -> Tensor:
        return self.whole.read(self.prefix + name)


class Loaded(Checkpoint):
    """The tensors ``names`` of ``source``, read once and held in memory as they are stored."""

    def __init__(self, source: Checkpoint, names: Iterable[str]) -> None:
        self.name, self.key, self.directory = source.name, source.key, source.directory
        self.held = {name: source.read(name).clone() for name in names}
        self.infos = {name: source.tensors[name] for name in self.held}

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return self.infos

    def read(self, name: str) -> Tensor:
        return self.held[name]


def depths(names: list[str]) -> dict[str, float]:
    """Place of each tensor from 0 (first layer, and outside of layers) to 1 (last layer)."""
    layers = numbered_layers(names)[1]
    last = max(1, *layers.values()) if len(layers) > 1 else 1
    return {name: layers.get(name, 0) / last for name in names}


def numbered_layers(names: list[str]) -> tuple[str, dict[str, int]]:
    """What stands before the layers' numbers, and the number of each tensor that is in a layer.

    Layers are the numbered parts of the names that stand at one place in most of them (``model.layers.7.…``).
    """
    places = {name: match for name in names if (match := re.match(r"(.*?)\b(\d+)\b", name))}
    if not places:
        return "", {}
    prefix = Counter(match[1] for match in places.values()).most_common(1)[0][0]
    return prefix, {name: int(match[2]) for name, match in places.items() if match[1] == prefix}


def read_vocabulary(directory: Path) -> dict[str, int] | None:
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"].get("vocab", {})
    if isinstance(vocabulary, list):
        vocabulary = {entry[0]: place for place, entry in enumerate(vocabulary)}
    return vocabulary | {token["content"]: token["id"] for token in content.get("added_tokens", [])}
