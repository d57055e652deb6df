"""Write a checkpoint tensor by tensor, in any order: the headers first, then each tensor at its place."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lfm_tasks.artifacts.disk import cannot_write
from lfm_tasks.reuse.checkpoint import INDEX
from lfm_tasks.reuse.dtypes import DTYPES
from lfm_tasks.reuse.plan import Planned

NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Writer:
    """Safetensors files of their final size, with holes where tensors are not written yet. Safe to use from several threads."""

    def __init__(self, directory: Path, planned: Sequence[Planned]) -> None:
        """Raises :class:`~lfm_tasks.errors.StoreUnavailable` when there is no room for the files."""
        directory.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, tuple[int, int]] = {}
        self._descriptors: dict[str, int] = {}
        by_file: dict[str, list[Planned]] = defaultdict(list)
        for one in planned:
            by_file[one.file].append(one)
        for file, tensors in by_file.items():
            self._prepare(directory / file, tensors)
        if len(by_file) > 1:
            index = {
                "metadata": {"total_size": sum(one.size for one in planned)},
                "weight_map": {one.name: one.file for one in sorted(planned, key=lambda one: one.name)},
            }
            (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def write(self, name: str, tensor: Tensor) -> None:
        descriptor, offset = self._places[name]
        data = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _prepare(self, path: Path, tensors: list[Planned]) -> None:
        """Larger items first, then by name: every tensor is aligned, and equal plans give equal bytes."""
        entries, position = {"__metadata__": {"format": "pt"}}, 0
        for one in sorted(tensors, key=lambda one: (-one.dtype.itemsize, one.name)):
            entries[one.name] = {"dtype": NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [position, position + one.size]}
            position += one.size
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self._descriptors[path.name] = descriptor
            _reserve(descriptor, 8 + len(header) + position)
            os.pwrite(descriptor, struct.pack("<Q", len(header)) + header, 0)
        except OSError as error:
            raise cannot_write(error, path) from error
        for one in tensors:
            self._places[one.name] = (descriptor, 8 + len(header) + entries[one.name]["data_offsets"][0])


def _reserve(descriptor: int, size: int) -> None:
    """Take the room now, where the file system can."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(descriptor, size)
