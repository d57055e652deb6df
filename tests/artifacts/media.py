"""What the tests of the store share: small directories, clients of the S3 server, artifacts that nobody can see."""

from __future__ import annotations

from pathlib import Path

import boto3

from lfm_tasks.artifacts.s3_backend import S3Backend
from tests.swift_server import S3Server

BUCKET = "lfm-tests"
MIB = 1 << 20


def tree(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def open_s3(server: S3Server, uri: str, **arguments) -> S3Backend:
    return S3Backend(uri, **({"endpoint_url": server.endpoint, "part_size": 5 * MIB, "attempts": 2} | arguments))


def client(server: S3Server):
    keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    return boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1", **keys)
