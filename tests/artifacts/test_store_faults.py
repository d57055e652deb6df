"""What a killed writer, a server that refuses or is gone, and a full disk leave: nothing that anybody could take for an artifact."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pytest

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ConfigError, ReferenceRefused, StoreUnavailable
from tests.artifacts.media import BUCKET, MIB, client, open_s3, tree
from tests.conftest import ROOT
from tests.dying import FILE_CALLS, SOCKET_CALLS, survives
from tests.small_disk import on_small_disk

ANY_AGE = timedelta(seconds=-1)
"""Swift rounds the time of an upload up to the next second."""


@pytest.fixture
def parts(tmp_path) -> Path:
    """A directory of several blocks and directories; on S3, of two parts."""
    return tree(tmp_path / "source", {"model.safetensors": os.urandom(5 * MIB + 1), "config.json": b"{}", "tokenizer/vocab.txt": b"a\n"})


@pytest.fixture
def address(parts, tmp_path) -> str:
    """The artifact's address, from a store where nobody was killed."""
    return Store.open(f"file://{tmp_path}/undisturbed").commit(parts, "model").sha256


def check_absent_or_whole(store: Store, address: str) -> bool:
    """True if the artifact is there, every byte of it; False if nobody can see anything of it."""
    seen = list(store.artifacts())
    if not seen:
        with pytest.raises(ReferenceRefused, match="There is no artifact"):
            store.find(address)
        return False
    assert seen == [("model", address)]
    store.verify(store.find(address))
    return True


def test_a_commit_that_is_killed_anywhere_leaves_all_or_nothing_and_its_retry_the_same_address(tmp_path, parts, address):
    outcomes, moment, ended = [], 0, False
    while not ended:
        root = tmp_path / f"store-{moment}"
        store = Store.open(f"file://{root}")
        ended = survives(lambda store=store: store.commit(parts, "model"), moment, FILE_CALLS)
        outcomes.append(check_absent_or_whole(store, address))
        assert outcomes[-1] or not list(store.backend.list(""))
        if moment % 2 and (left := list((root / ".tmp").glob("*"))):
            assert store.sweep() == len(left)
        assert store.commit(parts, "model").sha256 == address
        assert check_absent_or_whole(store, address)
        assert {path.name for path in root.iterdir()} == {"artifacts", ".tmp"} and not list((root / ".tmp").iterdir())
        moment += 1
    assert outcomes == sorted(outcomes) and {outcomes[0], outcomes[-2]} == {False, True}
    assert moment > 40


@pytest.mark.live
@pytest.mark.slow
def test_an_upload_that_is_killed_anywhere_shows_no_artifact_and_leaves_nothing_after_a_sweep(swift, s3, parts, address):
    store, server = Store(s3), client(swift)

    def uploads() -> int:
        listed = server.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return sum(upload["Key"].startswith(s3.root) for upload in listed)

    unconnected = Store(open_s3(swift, s3.uri))
    swept, moment, ended = [], 0, False
    while not ended:
        ended = survives(lambda: unconnected.commit(parts, "model"), moment, SOCKET_CALLS)
        check_absent_or_whole(store, address)
        assert store.commit(parts, "model").sha256 == address
        assert check_absent_or_whole(store, address)
        swept.append(store.sweep(ANY_AGE))
        assert uploads() == 0 and len(list(s3.list(""))) == 4
        s3.delete("artifacts")
        moment += 3
    assert swept[0] == swept[-1] == 0 and sum(swept) > 10


@pytest.mark.live
def test_a_sweep_removes_what_a_killed_upload_left_where_nobody_tries_again(swift, s3, parts, address):
    """Killed before its manifest: two objects are there, or an upload is open, and no artifact."""
    for moment in (6, 9):
        unconnected = Store(open_s3(swift, s3.uri))
        assert not survives(lambda store=unconnected: store.commit(parts, "model"), moment, SOCKET_CALLS)
    assert not check_absent_or_whole(Store(s3), address)
    assert Store(s3).sweep() == 0
    assert Store(s3).sweep(ANY_AGE) >= 1
    assert list(s3.list("")) == [] and Store(s3).sweep(ANY_AGE) == 0


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


USES = {
    "commit": lambda store, source: store.commit(source, "model"),
    "find": lambda store, source: store.find("0" * 64),
    "records": lambda store, source: list(store.records()),
    "put_record": lambda store, source: store.put_record({}),
    "sweep": lambda store, source: store.sweep(),
}
REFUSALS = {
    "wrong secret key": (ConfigError, "It refused the key pair: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    "unknown key": (ConfigError, "It refused the key pair: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    "missing bucket": (ConfigError, "The bucket does not exist. Create it, or set LFM_STORE_URI to one that does."),
    "server gone": (StoreUnavailable, "did not answer .* Check LFM_S3_ENDPOINT_URL, the server and the network."),
}


@pytest.mark.live
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("fault", REFUSALS)
def test_a_server_that_refuses_or_is_gone_is_named_and_the_keys_are_not(swift, s3, source, monkeypatch, fault, use):
    keys = {"AWS_ACCESS_KEY_ID": swift.access_key, "AWS_SECRET_ACCESS_KEY": swift.secret_key}
    keys |= {"wrong secret key": {"AWS_SECRET_ACCESS_KEY": "canary-secret"}, "unknown key": {"AWS_ACCESS_KEY_ID": "lfm:canary"}}.get(
        fault, {}
    )
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    bucket = "no-such-bucket" if fault == "missing bucket" else BUCKET
    endpoint = f"http://127.0.0.1:{closed_port()}" if fault == "server gone" else swift.endpoint
    store = Store(open_s3(swift, f"s3://{bucket}/store", endpoint_url=endpoint, attempts=1))
    kind, message = REFUSALS[fault]
    with pytest.raises(kind, match=message) as refused:
        USES[use](store, source)
    assert str(refused.value).startswith(f"The object store {endpoint}, bucket {bucket},")
    assert refused.value.retryable == (fault == "server gone")
    text = "".join(traceback.format_exception(refused.value))
    assert not [value for value in keys.values() if value in text]


def committed_by_a_child(root: Path, source: Path, *limit: int) -> dict:
    """What ``commit_once`` says of a commit below ``root``; ``limit``: largest file that it may write, in bytes."""
    command = [sys.executable, "-m", "tests.artifacts.commit_once", f"file://{root}/store", str(source), *map(str, limit)]
    if not limit:
        command = on_small_disk(root, "4m", command)
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("means", ["small disk", "file size limit"])
def test_a_full_disk_is_said_and_nothing_is_committed_or_left(tmp_path, parts, means):
    (tmp_path / "disk").mkdir()
    said = committed_by_a_child(tmp_path / "disk", parts, *([MIB] if means == "file size limit" else []))
    assert said["error"] == "StoreUnavailable" and said["retryable"]
    assert said["message"] == (
        f"No space left while writing to {tmp_path}/disk/store. Nothing was committed; free space and run the step again."
    )
    assert said["left"] == []


def test_memory_does_not_grow_with_what_is_committed(tmp_path):
    big = tree(tmp_path / "big", {f"model-{n}.safetensors": os.urandom(MIB) for n in range(4)})
    for path in list(big.iterdir())[:3]:
        with path.open("ab") as file:
            for _ in range(100):
                file.write(os.urandom(MIB))
    said = committed_by_a_child(tmp_path, big, 2**40)
    assert said["error"] is None and said["bytes"] == 304 * MIB
    assert said["peak_mib"] < 200
