"""Artifacts: their address, their commit, their verification, on both media."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_tasks.artifacts.manifest import MANIFEST, FileEntry, Manifest, list_files
from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import IntegrityError, InvalidInput, ReferenceRefused
from tests.artifacts.media import MIB, tree

NOWHERE = "0" * 64


def test_a_committed_artifact_comes_back_byte_for_byte(store, source, tmp_path):
    made = store.commit(source, "model")
    found = store.find(made.sha256)
    directory = store.materialise(found, tmp_path / "cache")
    assert found == made
    assert made.uri == f"{store.backend.uri}/artifacts/model/{made.sha256}"
    assert made.manifest.size == 6
    assert {name: path.read_bytes() for name, path in list_files(directory)} == {
        "config.json": b"{}",
        "tokenizer/vocab.txt": b"a\nb\n",
        "empty": b"",
    }


def test_the_address_is_what_sha256sum_says_of_the_manifest(store, source, tmp_path):
    made = store.commit(source, "dataset")
    manifest = tmp_path / "manifest"
    store.backend.get_file(f"artifacts/dataset/{made.sha256}/{MANIFEST}", manifest)
    assert subprocess.run(["sha256sum", manifest], capture_output=True, text=True, check=True).stdout.split()[0] == made.sha256


def test_a_second_commit_changes_nothing(store, source):
    first = store.commit(source, "model")
    keys = list(store.backend.list(""))
    assert store.commit(source, "model") == first
    assert list(store.backend.list("")) == keys
    assert list(store.artifacts()) == [("model", first.sha256)]


def test_a_materialised_artifact_commits_to_its_own_address(store, source, tmp_path):
    made = store.commit(source, "model")
    assert store.commit(store.materialise(made, tmp_path / "cache"), "model") == made


def test_a_file_of_several_parts(store, tmp_path):
    big = tree(tmp_path / "big", {"model.safetensors": os.urandom(21 * MIB), "config.json": b"{}"})
    made = store.commit(big, "model")
    store.verify(made)
    directory = store.materialise(made, tmp_path / "cache")
    assert (directory / "model.safetensors").read_bytes() == (big / "model.safetensors").read_bytes()


def test_what_was_never_committed(store):
    with pytest.raises(ReferenceRefused, match=f"There is no artifact sha256:{NOWHERE} in {store.backend.uri}. `lfm models` lists"):
        store.find(NOWHERE)
    with pytest.raises(ReferenceRefused, match=f"There is no record {NOWHERE}"):
        store.get_record(NOWHERE)
    assert store.cached("key") is None
    assert list(store.artifacts()) == list(store.records()) == []


def test_records_and_the_cache(store):
    address = store.put_record({"step": "tune", "n": 1})
    assert store.put_record({"n": 1, "step": "tune"}) == address
    store.put_cached("key", address)
    assert store.cached("key") == address
    assert dict(store.records()) == {address: {"step": "tune", "n": 1}}
    store.backend.put_bytes(f"records/{address}.json", b'{"step":"tune","n":2}')
    with pytest.raises(IntegrityError, match=f"Record {address} was changed after it was written."):
        store.get_record(address)


@pytest.mark.parametrize("read", [Store.verify, lambda store, made: store.materialise(made, Path(os.devnull) / "unused")])
def test_a_flipped_byte_is_refused_and_its_file_is_named(store, source, tmp_path, read):
    made = store.commit(source, "model")
    store.backend.put_bytes(f"artifacts/model/{made.sha256}/tokenizer/vocab.txt", b"a\nB\n")
    with pytest.raises(
        IntegrityError, match=rf"tokenizer/vocab.txt of model sha256:{made.sha256} has sha256 .* its bytes changed"
    ) as refused:
        read(store, made) if read is Store.verify else store.materialise(made, tmp_path / "cache")
    assert "Restore the file, or delete the artifact's directory" in str(refused.value)


def test_a_missing_file_is_named(store, source, tmp_path):
    made = store.commit(source, "model")
    store.backend.delete(f"artifacts/model/{made.sha256}/config.json")
    for read in (store.verify, lambda made: store.materialise(made, tmp_path / "cache")):
        with pytest.raises(IntegrityError, match=f"config.json of model sha256:{made.sha256} is gone from the store"):
            read(made)


def test_a_changed_manifest_is_refused(store, source):
    made = store.commit(source, "model")
    store.backend.put_bytes(f"artifacts/model/{made.sha256}/{MANIFEST}", made.manifest.to_bytes().replace(b'"size":2', b'"size":3'))
    with pytest.raises(IntegrityError, match=f"The manifest of artifact {made.sha256} hashes to [0-9a-f]{{64}}: it was changed"):
        store.find(made.sha256)


def test_a_file_that_was_added_in_place_is_refused(store, source, tmp_path):
    made = store.commit(source, "model")
    store.backend.put_bytes(f"artifacts/model/{made.sha256}/evil.py", b"")
    if store.backend.local_path("x") is None:
        assert not (store.materialise(made, tmp_path / "cache") / "evil.py").exists()
    else:
        with pytest.raises(IntegrityError, match=f"evil.py was added to model sha256:{made.sha256} after it was committed. Remove it."):
            store.materialise(made, tmp_path / "cache")


def test_a_damaged_download_is_fetched_again(store, source, tmp_path):
    made = store.commit(source, "model")
    directory = store.materialise(made, tmp_path / "cache")
    if store.backend.local_path("x") is None:
        (directory / "config.json").write_bytes(b"[]")
        (directory / "tokenizer" / "vocab.txt").unlink()
        directory = store.materialise(made, tmp_path / "cache")
    assert (directory / "config.json").read_bytes() == b"{}"
    assert (directory / "tokenizer" / "vocab.txt").read_bytes() == b"a\nb\n"


def test_a_symbolic_link_is_refused_and_nothing_is_committed(store, source):
    (source / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="passwd is a symbolic link; an artifact holds plain files only. Copy the target instead."):
        store.commit(source, "model")
    assert list(store.backend.list("")) == []


def test_a_linked_directory_and_a_pipe_are_refused(store, source):
    (source / "linked").symlink_to("/etc")
    with pytest.raises(InvalidInput, match="linked is a symbolic link"):
        store.commit(source, "model")
    (source / "linked").unlink()
    os.mkfifo(source / "pipe")
    with pytest.raises(InvalidInput, match="pipe is a pipe, socket or device"):
        store.commit(source, "model")


def test_an_empty_directory_is_refused(store, tmp_path):
    (tmp_path / "none" / "inner").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="none holds no files; an artifact needs at least one."):
        store.commit(tmp_path / "none", "model")


def test_a_file_that_changes_while_it_is_read_is_refused(store, source, monkeypatch):
    """Somebody appends to it as soon as its first block has been read for copying."""
    (source / "growing").write_bytes(bytes(3 * MIB))
    opened = Path.open

    def opens(path, *arguments, **named):
        file = opened(path, *arguments, **named)
        if path.name == "growing" and path.parent == source:
            read = file.read
            file.read = lambda size: (os.truncate(path, 4 * MIB), read(size))[1]
        return file

    monkeypatch.setattr(Path, "open", opens)
    with pytest.raises(IntegrityError, match="growing changed while it was being .*; nothing was committed. Run the step again."):
        store.commit(source, "model")
    assert list(store.artifacts()) == []


FILES = st.dictionaries(st.from_regex(r"\A[a-z]{1,3}(/[A-Z]{1,2})?\Z"), st.binary(max_size=40), min_size=1, max_size=5).filter(
    lambda files: not any(name.partition("/")[0] in files for name in files if "/" in name)
)


@settings(max_examples=12, deadline=None)
@given(files=FILES, other=FILES, order=st.randoms(use_true_random=False))
def test_the_address_depends_on_names_and_bytes_alone(tmp_path_factory, files, other, order):
    root = tmp_path_factory.mktemp("laws")
    store = Store.open(f"file://{root}/store")
    first = store.commit(tree(root / "first", files), "model")
    shuffled = list(files.items())
    order.shuffle(shuffled)
    second = tree(root / "second" / "elsewhere", dict(shuffled))
    for _, path in list_files(second):
        os.utime(path, (order.randrange(2**31), order.randrange(2**31)))
        path.chmod(0o600)
    assert store.commit(second, "model").sha256 == first.sha256
    assert store.commit(second, "dataset").sha256 != first.sha256
    assert (store.commit(tree(root / "third", other), "model").sha256 == first.sha256) == (files == other)
    shutil.rmtree(root)


@given(st.lists(st.tuples(st.from_regex(r"\A[a-z]{1,8}\Z"), st.integers(0, 2**50)), min_size=1, max_size=4))
def test_a_manifest_survives_its_own_bytes(files):
    manifest = Manifest(kind="model", files=tuple(FileEntry(path=path, sha256=NOWHERE, size=size) for path, size in files))
    assert Manifest.from_bytes(manifest.to_bytes(), manifest.address) == manifest


def test_what_is_removed_is_gone_and_what_is_left_of_it_is_named(store, source):
    one = store.commit(source, "model")
    (source / "config.json").write_bytes(b"{ }")
    other = store.commit(source, "model")
    store.remove(one)
    assert list(store.artifacts()) == [("model", other.sha256)]
    assert not list(store.backend.list(f"artifacts/model/{one.sha256}/")) and store.remnants() == []
    store.backend.delete(f"artifacts/model/{other.sha256}/manifest.json")
    assert store.remnants() == [f"artifacts/model/{other.sha256}"]


def test_only_the_cache_entries_of_removed_artifacts_are_dropped(store):
    records = {key: {"cache_key": key, "outputs": {"out": {"sha256": key * 64}}} for key in "ab"}
    for key, record in records.items():
        store.put_cached(key, store.put_record(record))
    store.forget_cached({"a" * 64})
    assert store.cached("a") is None and store.cached("b") is not None


def test_a_code_digest_gives_its_files_back_unless_they_were_changed(store):
    from lfm_tasks.artifacts.hashing import sha256_bytes
    from lfm_tasks.artifacts.store import code_listing

    files = {"package/one file.py": "1" * 64, "package/two.py": "2" * 64}
    digest = sha256_bytes(code_listing(files))
    assert store.get_code(digest) == {}
    store.put_code(files)
    assert store.get_code(digest) == files
    store.backend.put_bytes(f"code/{digest}.txt", b"package/two.py 0")
    assert store.get_code(digest) == {}
