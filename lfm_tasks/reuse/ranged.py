"""A safetensors file that is read by byte ranges from where it is stored: the header, then tensors, ahead of their use."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from lfm_tasks.errors import UnsafeModel
from lfm_tasks.reuse.dtypes import DTYPES
from lfm_tasks.step import RangeReader

SPAN = 8 << 20
"""Neighbouring tensors are read together up to so many bytes; a larger tensor is read alone."""
HELD = 6
"""Spans of several tensors that are kept, for the tensors that are still to come."""
LARGEST_HEADER = 100_000_000
"""Bytes, as the safetensors library has it."""

Span = tuple[int, int]


class Entry(NamedTuple):
    """What a header says of a tensor; its bytes are those of the file from ``begin`` up to ``end``."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class RangedWeights:
    """Memory is bounded: beside the tensors that were expected and are not yet taken, ``HELD`` spans of ``SPAN`` bytes.

    Reads happen in the order in which they are asked for, on ``pool``, which has one thread: what is asked for in the file's
    order is read in the file's order. Safe to use from several threads.
    """

    def __init__(self, reader: RangeReader, name: str, pool: Executor) -> None:
        """Raises :class:`UnsafeModel` with ``name`` unless the file begins with a header that its size fits."""
        self.reader, self.pool = reader, pool
        self.entries = read_header(reader, name)
        """In the file's order."""
        self._span_of = dict(spans(self.entries))
        self._alone = {span for name, span in self._span_of.items() if span == self.entries[name][2:]}
        self._held: OrderedDict[Span, Future[bytearray]] = OrderedDict()
        self._lock = Lock()

    def expect(self, name: str) -> None:
        """Begin to read the tensor, to be taken by ``get_tensor`` later."""
        if name in self._span_of:
            with self._lock:
                self._begin(self._span_of[name])

    def get_tensor(self, name: str) -> Tensor:
        """The caller's own."""
        entry = self.entries[name]
        if name not in self._span_of:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        span = self._span_of[name]
        with self._lock:
            reading = self._begin(span)
            if span in self._alone:
                del self._held[span]
        data = torch.frombuffer(reading.result(), dtype=torch.uint8)
        if span not in self._alone:
            data = data[entry.begin - span[0] : entry.end - span[0]].clone()
        return data.view(DTYPES[entry.dtype]).view(entry.shape)

    def verify(self) -> None:
        self.reader.verify()

    def _begin(self, span: Span) -> Future[bytearray]:
        if span not in self._held:
            self._held[span] = self.pool.submit(self.reader.read, span[0], span[1] - span[0])
        self._held.move_to_end(span)
        shared = [one for one in self._held if one not in self._alone]
        for oldest in shared[:-HELD]:
            del self._held[oldest]
        return self._held[span]


def read_header(reader: RangeReader, name: str) -> dict[str, Entry]:
    """Entries in the order of their bytes, which fill the file without a gap. Raises :class:`UnsafeModel` with ``name`` otherwise."""
    try:
        return dict(_entries(reader))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reader.verify()
        raise UnsafeModel(f"{name} is not a valid safetensors file ({error}). Fetch or convert it again.") from None


def spans(entries: dict[str, Entry]) -> Iterator[tuple[str, Span]]:
    """The range that each tensor is read with; a tensor without bytes has none."""
    group: list[str] = []
    begin = end = 0
    for name, entry in entries.items():
        if group and entry.end - begin > SPAN:
            yield from ((one, (begin, end)) for one in group)
            group = []
        if entry.begin < entry.end:
            begin = begin if group else entry.begin
            group, end = [*group, name], entry.end
    yield from ((one, (begin, end)) for one in group)


def _entries(reader: RangeReader) -> Iterator[tuple[str, Entry]]:
    if reader.size < 8:
        raise ValueError(f"it has {reader.size} bytes")
    length = int.from_bytes(reader.read(0, 8), "little")
    if length > min(LARGEST_HEADER, reader.size - 8):
        raise ValueError(f"its header would have {length:,} bytes")
    header = json.loads(reader.read(8, length))
    header.pop("__metadata__", None)
    position = start = 8 + length
    for name, described in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        (begin, end), shape = described["data_offsets"], tuple(described["shape"])
        if start + begin != position or not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
            raise ValueError(f"{name} is not where the tensor before it ends")
        dtype = DTYPES.get(described["dtype"])
        if end < begin or (dtype is not None and end - begin != math.prod(shape) * dtype.itemsize):
            raise ValueError(f"{name} has {end - begin:,} bytes")
        position = start + end
        yield name, Entry(described["dtype"], shape, start + begin, position)
    if position != reader.size:
        raise ValueError(f"its tensors end at byte {position:,} of {reader.size:,}")
