"""What every medium must do: the same laws for ``file://`` and ``s3://``."""

from __future__ import annotations

import hashlib
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from lfm_tasks.artifacts.backend import open_backend
from lfm_tasks.errors import ConfigError, InvalidInput
from tests.artifacts.media import MIB, tree

ODD_KEYS = ("plain", "deep/er/file.txt", "with space", "ünïcode/模型", "plus+and&and=", "%2e%2e/escaped", "a'b\"c", ".hidden", "x~!@$()*,;")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, 16 * MIB + 3], ids=["empty", "byte", "part", "part+1", "parts"])
def test_a_file_comes_back_as_it_was_put_and_every_hash_agrees(backend, tmp_path, size):
    data = os.urandom(size)
    source = tmp_path / "data"
    source.write_bytes(data)
    assert backend.put_file("a/b", source) == sha256(data)
    assert backend.exists("a/b")
    assert backend.sha256("a/b") == sha256(data)
    assert backend.get_file("a/b", tmp_path / "new" / "copy") == sha256(data)
    assert (tmp_path / "new" / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def test_odd_keys_are_kept_apart_and_listed_in_order(backend):
    for key in ODD_KEYS:
        backend.put_bytes(key, key.encode())
    assert list(backend.list("")) == sorted(ODD_KEYS)
    assert [backend.get_bytes(key) for key in ODD_KEYS] == [key.encode() for key in ODD_KEYS]


def test_put_replaces(backend):
    backend.put_bytes("key", b"old and longer")
    backend.put_bytes("key", b"new")
    assert backend.get_bytes("key") == b"new"


def test_what_is_not_there(backend, tmp_path):
    assert not backend.exists("no/where")
    assert backend.get_bytes("no/where") is None
    assert list(backend.list("no/")) == []
    for read in (backend.sha256, lambda key: backend.get_file(key, tmp_path / "copy")):
        with pytest.raises(FileNotFoundError):
            read("no/where")
    assert not (tmp_path / "copy").exists()


def test_list_and_delete_take_directories_not_beginnings_of_names(backend):
    for key in ("a/1", "a/b/2", "ab/3", "a.4"):
        backend.put_bytes(key, b"")
    assert list(backend.list("a/")) == ["a/1", "a/b/2"]
    backend.delete("a")
    backend.delete("a")
    assert list(backend.list("")) == ["a.4", "ab/3"]
    backend.delete("a.4")
    assert list(backend.list("")) == ["ab/3"]


@pytest.mark.parametrize("key", ["../out", "/etc/passwd", "a/../../out", "a\x00b", "a\\b", "", ".", "a//b"])
def test_no_key_leaves_the_root(backend, tmp_path, key):
    for use in (backend.get_bytes, backend.exists, backend.delete, lambda key: backend.put_bytes(key, b"")):
        with pytest.raises(InvalidInput, match="is not a plain relative path"):
            use(key)


def test_a_tree_is_left_as_it_is_when_its_manifest_is_there(backend, tmp_path):
    first = tree(tmp_path / "first", {"x": b"1"})
    second = tree(tmp_path / "second", {"x": b"2"})
    for directory in (first, second):
        backend.put_tree([("x", directory / "x")], lambda entries: ("trees/t", b"manifest"))
    assert backend.get_bytes("trees/t/x") == b"1"


def test_a_tree_without_a_manifest_is_completed(backend, source):
    backend.put_bytes("trees/t/x", b"left by somebody who was killed")
    entries = backend.put_tree([("x", source / "config.json")], lambda entries: ("trees/t", b"manifest"))
    assert [(entry.path, entry.size, entry.sha256) for entry in entries] == [("x", 2, sha256(b"{}"))]
    assert backend.get_bytes("trees/t/x") == b"{}"
    assert backend.get_bytes("trees/t/manifest.json") == b"manifest"


def test_writers_of_one_tree_do_not_disturb_each_other(backend, source):
    """Eight threads commit the same tree at once: each ends well, and the tree is whole."""
    failed = []

    def put():
        try:
            backend.put_tree([("x", source / "tokenizer/vocab.txt")], lambda entries: ("trees/t", b"manifest"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(backend.list("")) == ["trees/t/manifest.json", "trees/t/x"]
    assert backend.get_bytes("trees/t/x") == b"a\nb\n"
    assert backend.sweep(timedelta(0)) == 0


def test_a_store_of_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigError, match=r"The store 'ftp://x' has an unknown scheme. Set LFM_STORE_URI to file:///directory or s3://"):
        open_backend("ftp://x")


def test_a_key_says_when_it_was_written(backend):
    before = datetime.now(UTC) - timedelta(seconds=2)
    backend.put_bytes("a/b", b"x")
    assert before <= backend.modified("a/b") <= datetime.now(UTC) + timedelta(seconds=2)
    assert backend.modified("a/c") is None
