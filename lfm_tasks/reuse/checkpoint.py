"""Checkpoints of models as named tensors: read from safetensors files, sharded or not, mapped or by ranges, for any architecture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lfm_tasks.errors import InvalidInput
from lfm_tasks.models.layers import numbered_layers
from lfm_tasks.reuse.dtypes import DTYPES
from lfm_tasks.reuse.ranged import RangedWeights
from lfm_tasks.step import RangeReader

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class TensorInfo:
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    place: int
    """In the order of the file's bytes."""


class MappedWeights:
    """A safetensors file on local disk. Tensors are views of the mapped file: nothing is copied, nothing may be written."""

    def __init__(self, path: Path) -> None:
        self._opened = safe_open(path, framework="pt")
        self.get_tensor = self._opened.get_tensor

    @cached_property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name to dtype and shape, in the file's order."""
        slices = {name: self._opened.get_slice(name) for name in self._opened.offset_keys()}
        return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}

    def expect(self, name: str) -> None:
        """The kernel reads ahead by itself."""

    def verify(self) -> None:
        """The runner did, before the step began."""


class Checkpoint:
    """The weights of one model directory. Tensors are borrowed: nothing may be written to them."""

    held: Mapping[str, Tensor] | None = None
    """All tensors of the model's files by their names there, where they are in memory."""

    def __init__(self, name: str, key: str, directory: Path, remote: Mapping[str, RangeReader] | None = None) -> None:
        """``name`` for messages; ``key`` is the content's hash; ``remote``: the weight files that are not in the directory."""
        self.name, self.key, self.directory = name, key, directory
        remote = remote or {}
        pool = ThreadPoolExecutor(1, "ranges")
        self._files = {
            file: RangedWeights(remote[file], f"{file} of {name}", pool) if file in remote else MappedWeights(directory / file)
            for file in self._file_names(remote)
        }

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Raises :class:`InvalidInput` for a dtype that cannot be merged (quantised weights)."""
        found = {}
        for file, opened in self._files.items():
            places = {name: place for place, name in enumerate(opened.entries)}
            for name in sorted(places):
                dtype, shape, *_ = opened.entries[name]
                if dtype not in DTYPES:
                    allowed = ", ".join(DTYPES)
                    raise InvalidInput(f"{self.name}: {name} is stored as {dtype}. Allowed: {allowed}. Save the model unquantised.")
                found[name] = TensorInfo(file, DTYPES[dtype], shape, places[name])
        return found

    @property
    def in_order(self) -> list[str]:
        """Names as the tensors come in the files: so each byte of a file that is far away is read, and verified, once."""
        return sorted(self.tensors, key=lambda name: (self.tensors[name].file, self.tensors[name].place))

    def read(self, name: str) -> Tensor:
        return self._files[self.tensors[name].file].get_tensor(name)

    def expect(self, name: str) -> None:
        """The tensor will be read soon; one that is far away is on its way from now on, and in memory until it is read."""
        self._files[self.tensors[name].file].expect(name)

    def verify(self) -> None:
        """To be called before an error is blamed on the model: raises :class:`IntegrityError` for a file that is not the model's own."""
        for opened in self._files.values():
            opened.verify()

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

    def _file_names(self, remote: Iterable[str]) -> list[str]:
        there = {path.name for path in self.directory.glob("*.safetensors")} | {file for file in remote if "/" not in file}
        if (self.directory / INDEX).is_file():
            return sorted(set(json.loads((self.directory / INDEX).read_text())["weight_map"].values()))
        if SINGLE in there:
            return [SINGLE]
        if len(there) != 1:
            raise InvalidInput(
                f"{self.name} has no {SINGLE} and no {INDEX}; its safetensors files: {', '.join(sorted(there)) or 'none'}. "
                "Save the model by save_pretrained."
            )
        return list(there)


class Part(Checkpoint):
    """The tensors of ``whole`` named ``prefix`` + one of ``names``, without the prefix."""

    def __init__(self, whole: Checkpoint, prefix: str, names: list[str]) -> None:
        self.name, self.key, self.directory = whole.name, whole.key, whole.directory
        self.whole, self.prefix, self.names, self.held = whole, prefix, names, whole.held

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: self.whole.tensors[self.prefix + name] for name in self.names}

    def read(self, name: str) -> Tensor:
        return self.whole.read(self.prefix + name)

    def expect(self, name: str) -> None:
        self.whole.expect(self.prefix + name)

    def verify(self) -> None:
        self.whole.verify()


class Loaded(Checkpoint):
    """The tensors of ``source``, read once and held in memory as they are stored."""

    def __init__(self, source: Checkpoint) -> None:
        self.name, self.key, self.directory, self.source = source.name, source.key, source.directory, source
        self.held = {name: source.read(name).clone() for name in source.in_order}

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return self.source.tensors

    def read(self, name: str) -> Tensor:
        return self.held[name]

    def expect(self, name: str) -> None:
        """It is there."""

    def verify(self) -> None:
        self.source.verify()


def depths(names: list[str]) -> dict[str, float]:
    """Place of each tensor from 0 (first layer, and outside of layers) to 1 (last layer)."""
    layers = numbered_layers(names)[1]
    last = max(1, *layers.values()) if len(layers) > 1 else 1
    return {name: layers.get(name, 0) / last for name in names}


def read_vocabulary(directory: Path) -> dict[str, int] | None:
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"].get("vocab", {})
    if isinstance(vocabulary, list):
        vocabulary = {entry[0]: place for place, entry in enumerate(vocabulary)}
    return vocabulary | {token["content"]: token["id"] for token in content.get("added_tokens", [])}
