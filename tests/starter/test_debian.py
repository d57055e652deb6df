"""Packages of Debian: got by apt under a pin, read without being installed."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest

from lfm_tasks.data.images import decode
from lfm_tasks.errors import IntegrityError, InvalidInput, Unavailable
from lfm_tasks.starter.catalogue import find_starter
from lfm_tasks.starter.convert import build
from lfm_tasks.starter.fetch import extract, fetch
from lfm_tasks.starter.images import GARMENTS
from tests.starter.starter_packages import deb

DIRECTORY = "usr/share/datasets/fashion-mnist"
PIXELS = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
LABELS = np.array([9, 0, 9], np.uint8)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Three images, and an apt-get that knows this package alone."""
    images = gzip.compress(struct.pack(">IIII", 2051, 3, 28, 28) + PIXELS.tobytes())
    labels = gzip.compress(struct.pack(">II", 2049, 3) + LABELS.tobytes())
    files = {f"./{DIRECTORY}/{part}-images-idx3-ubyte.gz": images for part in ("train", "t10k")}
    files |= {f"./{DIRECTORY}/{part}-labels-idx1-ubyte.gz": labels for part in ("train", "t10k")}
    path = deb(tmp_path / "toy_1_all.deb", files | {"./etc/passwd": b"x"})
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "apt-get"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\n[ "$last" = toy=1 ] && exec cp {path} .\necho "E: no $last" >&2; exit 100\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return path


@pytest.fixture
def starter(package, changed):
    return changed(find_starter("fashion-mnist"), package="toy", version="1", sha256=hashlib.sha256(package.read_bytes()).hexdigest())


def test_images_labels_and_splits(starter, tmp_path):
    (tmp_path / "scratch").mkdir()
    build(starter, tmp_path / "cache", tmp_path / "scratch", tmp_path / "made")
    rows = pq.read_table(tmp_path / "made" / "data.parquet").to_pylist()
    assert [row["split"] for row in rows] == ["train"] * 3 + ["test"] * 3
    assert [row["label"] for row in rows[:3]] == [GARMENTS[label] for label in LABELS]
    assert np.array_equal(np.concatenate([decode(row["image"], 0, "") for row in rows[:3]]), PIXELS)
    assert json.loads((tmp_path / "made" / "source.json").read_text())["labels"] == {"ankle boot": 4, "t-shirt or top": 2}


def test_only_declared_files_are_written(starter, tmp_path):
    written = extract(fetch(starter, tmp_path / "cache"), starter, tmp_path / "out")
    assert len(written) == 4 and {path for path in (tmp_path / "out").rglob("*") if path.is_file()} == set(written)


def test_other_bytes_are_refused(starter, tmp_path, changed):
    with pytest.raises(IntegrityError, match="toy_1_all.deb has sha256"):
        fetch(changed(starter, sha256="0" * 64), tmp_path / "cache")


def test_what_apt_does_not_have_says_what_to_do(starter, tmp_path, changed, monkeypatch):
    with pytest.raises(Unavailable, match="apt-get cannot get toy=2: E: no toy=2 Run `apt-get update` as root"):
        fetch(changed(starter, version="2"), tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable, match="apt-get is not there, and toy is a package of Debian"):
        fetch(starter, tmp_path / "cache")


def test_what_is_no_package_is_refused(starter, tmp_path):
    (tmp_path / "broken.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(InvalidInput, match="broken.deb is no package of Debian: it has no data.tar"):
        extract(tmp_path / "broken.deb", starter, tmp_path / "out")
