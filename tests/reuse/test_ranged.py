"""Safetensors files read by ranges: what the library reads from the whole file, in few reads, and nothing that it would refuse."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lfm_tasks.artifacts.file_backend import FileBackend
from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.manifest import FileEntry
from lfm_tasks.artifacts.remote import RemoteFile
from lfm_tasks.errors import IntegrityError, UnsafeModel
from lfm_tasks.reuse.dtypes import DTYPES
from lfm_tasks.reuse.ranged import RangedWeights, spans


def reader_of(directory: Path, data: bytes) -> RemoteFile:
    (directory / "file").write_bytes(data)
    entry = FileEntry(path="file", sha256=sha256_file(directory / "file"), size=len(data))
    return RemoteFile(FileBackend(f"file://{directory}"), "file", entry, "the file")


def opened(reader: RemoteFile) -> RangedWeights:
    return RangedWeights(reader, "file of model", ThreadPoolExecutor(1))


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Of every dtype, of sizes that leave the next ones unaligned, without elements, and a scalar."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for place, dtype in enumerate(DTYPES.values()):
        for size in (1, 3, 7, 1000 + place):
            found[f"{place % 3}.{dtype}.{size}"] = torch.randint(0, 2, (size, 3), generator=generator).to(dtype)
        found[f"{dtype}.empty"] = torch.empty(0, 3, dtype=dtype)
    return found | {"scalar": torch.tensor(2.5)}


@pytest.mark.parametrize("span", [1, 1000, 1 << 20])
@pytest.mark.parametrize("order", ["file", "expected", "name", "backwards"])
def test_every_tensor_is_what_the_library_reads(tmp_path, monkeypatch, tensors, span, order):
    monkeypatch.setattr("lfm_tasks.reuse.ranged.SPAN", span)
    data = save(tensors, {"format": "pt"})
    reader = reader_of(tmp_path, data)
    weights = opened(reader)
    names = {"name": sorted(tensors), "backwards": list(weights.entries)[::-1]}.get(order, list(weights.entries))
    for name in names if order == "expected" else ():
        weights.expect(name)
    for name in names:
        assert torch.equal(weights.get_tensor(name), load(data)[name]) and weights.get_tensor(name).dtype == tensors[name].dtype
    reader.verify()
    assert names == list(weights.entries) or order in ("name", "backwards")


def test_in_the_files_order_every_byte_is_read_once_and_spans_cover_all(tmp_path, monkeypatch, tensors):
    monkeypatch.setattr("lfm_tasks.reuse.ranged.SPAN", 1000)
    reader = reader_of(tmp_path, save(tensors))
    weights = opened(reader)
    for name in weights.entries:
        weights.get_tensor(name)
    reader.verify()
    assert reader.bytes_read == reader.size
    covered = sorted(set(dict(spans(weights.entries)).values()))
    assert [end for _, end in covered] == [*(begin for begin, _ in covered[1:]), reader.size]
    assert all(end - begin <= 1000 or (begin, end) in {entry[2:] for entry in weights.entries.values()} for begin, end in covered)


def file_of(header: object, body: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(begin: object = 0, end: object = 16, shape: object = (4,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "empty": b"",
    "seven bytes": b"\1\0\0\0\0\0\0",
    "a header longer than the file": struct.pack("<Q", 100) + b"{}",
    "no JSON": file_of(b"{"),
    "no text": file_of(b"\xff\xff"),
    "a list": file_of([]),
    "bytes of no tensor": file_of({"a": entry(0, 8, [2])}),
    "a gap": file_of({"a": entry(0, 4, [1]), "b": entry(8, 16, [2])}),
    "an overlap": file_of({"a": entry(0, 8, [2]), "b": entry(4, 16, [3])}),
    "beyond the end": file_of({"a": entry(0, 20, [5])}),
    "another size than the shape's": file_of({"a": entry(shape=[3])}),
    "a negative shape": file_of({"a": entry(shape=[-2, -2])}),
    "a shape of text": file_of({"a": entry(shape=["4"])}),
    "no offsets": file_of({"a": {"dtype": "F32", "shape": [4]}}),
    "too deep": file_of(b"[" * 100_000),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_as_the_library_does(tmp_path, data):
    with pytest.raises(SafetensorError):
        load(data)
    with pytest.raises(UnsafeModel, match="^file of model is not a valid safetensors file .* Fetch or convert it again."):
        opened(reader_of(tmp_path, data))


def test_a_header_that_was_damaged_later_is_not_called_invalid(tmp_path, tensors):
    data = save(tensors)
    reader = reader_of(tmp_path, data)
    (tmp_path / "file").write_bytes(data[:9] + b"\xff" + data[10:])
    with pytest.raises(IntegrityError, match="the file has sha256"):
        opened(reader)
