"""What is promised of files that are read by ranges: after ``verify`` every byte that was used is the one that was committed."""

from __future__ import annotations

import os
import random

import pytest

from lfm_tasks.artifacts.file_backend import FileBackend
from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.artifacts.manifest import FileEntry
from lfm_tasks.artifacts.remote import RemoteFile
from lfm_tasks.errors import IntegrityError, StoreUnavailable
from tests.artifacts.media import MIB, open_s3, tree
from tests.s3_proxy import FAULTS, proxy_of

DATA = bytes(random.Random(0).randbytes(100_000))
OTHER = bytes([DATA[0] ^ 1]) + DATA[1:]
PARTS = [(0, 8), (8, 92), (100, 39_900), (40_000, 0), (40_000, 60_000)]


@pytest.fixture
def medium(tmp_path):
    """Puts bytes in the place of the file."""
    tree(tmp_path, {"file": DATA})
    return lambda data: (tmp_path / "file").write_bytes(data)


@pytest.fixture
def opened(tmp_path, medium):
    return lambda: RemoteFile(
        FileBackend(f"file://{tmp_path}"), "file", FileEntry(path="file", sha256=sha256_bytes(DATA), size=len(DATA)), "the file"
    )


def read(file: RemoteFile, parts) -> None:
    for offset, length in parts:
        assert file.read(offset, length) == DATA[offset : offset + length]


@pytest.mark.parametrize("backwards", [False, True])
def test_bytes_in_order_are_read_once_and_the_rest_once_more(opened, backwards):
    file = opened()
    read(file, PARTS[::-1] if backwards else PARTS)
    file.verify()
    file.verify()
    assert file.bytes_read == len(DATA) * (2 if backwards else 1) - (8 if backwards else 0)


@pytest.mark.parametrize("parts", [[], PARTS[:2], PARTS[:3], PARTS[2:4]])
def test_what_was_not_read_is_verified_as_well(opened, medium, parts):
    read(opened(), parts)
    medium(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    file = opened()
    for part in parts:
        file.read(*part)
    with pytest.raises(IntegrityError, match="^the file has sha256 .* its bytes changed after they were committed. Restore the file"):
        file.verify()


@pytest.mark.parametrize("order", [[0, 1, 2, 4], [4, 2, 1, 0], [1, 0, 2, 4], [2, 1, 0], [0, 4, 1], [0, 2, 0, 1]])
@pytest.mark.parametrize("changed_for", range(4))
def test_bytes_that_were_others_for_a_while_are_noticed_wherever_they_were_read(opened, medium, order, changed_for):
    """The object was damaged or replaced during one read, and is whole again before and after."""
    file, place = opened(), min(changed_for, len(order) - 1)
    offset, length = PARTS[order[place]]
    with pytest.raises(IntegrityError, match="bytes changed after they were committed"):
        for number, part in enumerate(order):
            medium(DATA[:offset] + bytes([DATA[offset] ^ 1]) + DATA[offset + 1 :] if number == place else DATA)
            file.read(*PARTS[part])
        medium(DATA)
        file.verify()


def test_a_read_that_was_refused_is_refused_by_verify_as_well(opened, medium):
    file = opened()
    medium(OTHER)
    with pytest.raises(IntegrityError, match="the file has sha256"):
        file.read(0, len(DATA))
    medium(DATA)
    with pytest.raises(IntegrityError, match="the file has sha256"):
        file.verify()


def test_ranges_may_overlap(opened, medium):
    file = opened()
    read(file, [(0, 60_000), (50_000, 50_000), (10, 10)])
    file.verify()
    spoilt = opened()
    medium(OTHER)
    spoilt.read(0, 50)
    medium(DATA)
    read(spoilt, [(10, 99_990)])
    with pytest.raises(IntegrityError, match="Range 0-49 of the file has sha256|the file has sha256"):
        spoilt.verify()


@pytest.mark.parametrize("again", [[], PARTS, PARTS[2:]])
def test_ranges_of_an_earlier_attempt_are_verified_with_those_of_this_one(opened, medium, again):
    good, bad = opened(), opened()
    read(good, PARTS[:2])
    medium(OTHER)
    for part in PARTS[:2]:
        bad.read(*part)
    medium(DATA)
    for earlier, whole in ((good, True), (bad, False)):
        file = opened()
        file.recall(earlier.ranges())
        if whole:
            read(file, again)
            file.verify()
            continue
        with pytest.raises(IntegrityError, match="Range 0-7 of the file has sha256 .*, as it was read before"):
            read(file, again)
            file.verify()


@pytest.mark.parametrize(("size", "most"), [(0, "30,000"), (50_000, "50,000")])
def test_a_file_that_is_shorter_or_gone_is_named(opened, medium, tmp_path, size, most):
    medium(DATA[:size])
    with pytest.raises(IntegrityError, match=f"the file has at most {most} bytes, not 100,000"):
        opened().read(30_000, 70_000)
    (tmp_path / "file").unlink()
    with pytest.raises(IntegrityError, match="the file is gone from the store"):
        opened().read(0, 8)


def test_a_range_ends_where_the_file_ends(backend, tmp_path):
    backend.put_file("key", tree(tmp_path / "s", {"file": DATA}) / "file")
    assert backend.get_range("key", 10, 20) == DATA[10:30]
    assert backend.get_range("key", 99_990, 20) == DATA[99_990:]
    assert backend.get_range("key", 200_000, 20) == b""
    with pytest.raises(FileNotFoundError):
        backend.get_range("other", 0, 1)


@pytest.mark.live
@pytest.mark.parametrize("fault", FAULTS)
def test_a_read_that_fails_breaks_off_or_hangs_is_tried_again(swift, s3, tmp_path, fault):
    data = os.urandom(12 * MIB)
    s3.put_file("key", tree(tmp_path / "s", {"file": data}) / "file")
    with proxy_of(swift) as proxy:
        reader = open_s3(swift, s3.uri, endpoint_url=proxy.endpoint, patience=1)
        proxy.fault = lambda place: fault if place == 2 else ""
        assert reader.get_range("key", 1, len(data) - 2) == data[1:-1]
        assert sorted({(first, last) for _, first, last in proxy.ranges}) == [
            (1, 5 * MIB),
            (1 + 5 * MIB, 10 * MIB),
            (1 + 10 * MIB, len(data) - 2),
        ]
        assert len(proxy.ranges) == 4
        proxy.fault = lambda place: "refuse"
        with pytest.raises(StoreUnavailable, match=r"answered get_object with 503 .* the same job may succeed later"):
            reader.get_range("key", 0, 10)
