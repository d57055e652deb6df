"""Both media for the same tests: a directory, and a bucket on a real S3 server."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from lfm_tasks.artifacts.backend import Backend
from lfm_tasks.artifacts.file_backend import FileBackend
from lfm_tasks.artifacts.s3_backend import S3Backend
from lfm_tasks.artifacts.store import Store
from tests.artifacts.media import BUCKET, open_s3, tree


@pytest.fixture
def s3(swift, monkeypatch) -> S3Backend:
    """A backend below a prefix of its own, with parts small enough for small tests."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", swift.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift.secret_key)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return open_s3(swift, f"s3://{BUCKET}/{secrets.token_hex(6)}/store")


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.live)])
def backend(request, tmp_path) -> Backend:
    return request.getfixturevalue("s3") if request.param == "s3" else FileBackend(f"file://{tmp_path}/store")


@pytest.fixture
def store(backend) -> Store:
    return Store(backend)


@pytest.fixture
def source(tmp_path) -> Path:
    """A directory of three small files, one of them empty, one in a subdirectory."""
    return tree(tmp_path / "source", {"config.json": b"{}", "tokenizer/vocab.txt": b"a\nb\n", "empty": b""})
