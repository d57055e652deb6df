"""A store in a bucket, by boto3: multipart uploads and ranged reads over a bounded pool of threads.

An object is whole or absent by S3's own rules. What is sent carries its SHA-256, per object or per part, and the server
refuses bytes that do not fit; what it stored is compared once more by the checksum or the ETag that it answers with.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from lfm_tasks.artifacts.backend import Place
from lfm_tasks.artifacts.disk import read_blocks, replace_file
from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.manifest import MANIFEST, FileEntry, check_relative_path
from lfm_tasks.artifacts.parallel import in_order
from lfm_tasks.artifacts.s3_errors import Endpoint, error_code
from lfm_tasks.errors import ConfigError, IntegrityError, InvalidInput, StoreUnavailable
from lfm_tasks.settings import settings

STALE = timedelta(days=1)
_MIB = 1 << 20
_MEMORY = 96 * _MIB
_MOST_PARTS = 10_000
_READ_ATTEMPTS = 5
_MISSING = ("NoSuchKey", "404", "NotFound")
_BEYOND = ("InvalidRange", "416")


class S3Backend:
    """Keys below ``s3://bucket/prefix``.

    Files are hashed before they are sent, because their tree's key is its address: sending them under another prefix
    and copying them on the server would double the work of the slow side and leave garbage there after a crash, while
    the second local read is mostly from memory, and an artifact that is there already is not sent at all.
    """

    def __init__(
        self,
        uri: str,
        *,
        endpoint_url: str | None = None,
        region: str = "us-east-1",
        part_size: int = 8 * _MIB,
        workers: int = 4,
        attempts: int = 5,
        patience: float = 60,
    ) -> None:
        """``part_size`` in bytes, at least 5 MiB where the server is AWS; ``attempts`` per request, by botocore's standard mode;
        ``patience``: seconds without a byte after which one is given up.

        Raises :class:`ConfigError` without a bucket name or a key pair in the environment.
        """
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri.rstrip("/"))
        if match is None:
            raise ConfigError(f"The store {uri!r} is not of the form s3://bucket/prefix. Set LFM_STORE_URI.")
        self.uri = uri.rstrip("/")
        self.bucket, self.root = match[1], f"{check_relative_path(match[2])}/" if match[2] else ""
        self.part_size, self.workers = part_size, workers
        self._bucket_seen = False
        self._endpoint = Endpoint(endpoint_url, self.bucket)
        self._client = _client(endpoint_url, region, workers, attempts, patience)

    @classmethod
    def from_settings(cls, uri: str) -> S3Backend:
        return cls(uri, endpoint_url=settings().s3_endpoint_url, region=settings().s3_region)

    def put_file(self, key: str, source: Path) -> str:
        size = source.stat().st_size
        if size <= self.part_size:
            data = b"".join(read_blocks(source))
            self.put_bytes(key, data)
            return hashlib.sha256(data).hexdigest()
        part_size, workers = self._parts(source, size)
        digest = hashlib.sha256()
        upload = self._call("create_multipart_upload", Key=self._key(key), ChecksumAlgorithm="SHA256")["UploadId"]
        try:
            calls = (
                partial(self._put_part, key, upload, n, block) for n, block in enumerate(_hashed(read_blocks(source, part_size), digest), 1)
            )
            parts = list(in_order(calls, workers))
            self._call("complete_multipart_upload", Key=self._key(key), UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self._abort(self._key(key), upload)
            raise
        return digest.hexdigest()

    def put_bytes(self, key: str, data: bytes) -> None:
        answer = self._call("put_object", Key=self._key(key), Body=data, ChecksumSHA256=_checksum(data))
        self._check_stored(key, data, answer)

    def put_tree(self, files: Sequence[tuple[str, Path]], place: Place) -> tuple[FileEntry, ...]:
        entries = tuple(FileEntry(path=name, sha256=sha256_file(path), size=path.stat().st_size) for name, path in files)
        prefix, manifest = place(entries)
        if self.exists(f"{prefix}/{MANIFEST}"):
            return entries
        self.abort_stale_uploads("", STALE)
        for entry, (name, path) in zip(entries, files, strict=True):
            if self.put_file(f"{prefix}/{name}", path) != entry.sha256:
                raise IntegrityError(f"{path} changed while it was being committed; nothing was committed. Run the step again.")
        self.put_bytes(f"{prefix}/{MANIFEST}", manifest)
        return entries

    def get_bytes(self, key: str) -> bytes | None:
        try:
            return self._read(key)
        except FileNotFoundError:
            return None

    def get_range(self, key: str, offset: int, length: int) -> bytearray:
        """One request per ``part_size`` bytes, of which a few are under way at a time."""
        data = bytearray()
        for part in self._parts_of(key, offset, offset + length):
            data += part
        return data

    def get_file(self, key: str, destination: Path) -> str:
        return replace_file(destination, self._blocks(key))

    def sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for block in self._blocks(key):
            digest.update(block)
        return digest.hexdigest()

    def exists(self, key: str) -> bool:
        return self._size(key) is not None

    def modified(self, key: str) -> datetime | None:
        head = self._head(key)
        return None if head is None else head["LastModified"]

    def list(self, prefix: str) -> Iterator[str]:
        for found in self._objects(prefix):
            yield found["Key"].removeprefix(self.root)

    def delete(self, prefix: str) -> None:
        name = self._key(prefix.rstrip("/"))
        keys = [key for key in (self.root + found for found in self.list(prefix.rstrip("/"))) if key == name or key.startswith(f"{name}/")]
        self._delete(keys)

    def local_path(self, key: str) -> Path | None:
        return None

    def sweep(self, older_than: timedelta = STALE) -> int:
        """Abort uploads, and remove trees of artifacts that have no manifest, whose last sign of life is older than ``older_than``."""
        return self.abort_stale_uploads("", older_than) + self._delete_abandoned_trees(older_than)

    def abort_stale_uploads(self, prefix: str, older_than: timedelta = timedelta(0)) -> int:
        """Abort the multipart uploads below ``prefix`` that began longer ago; return how many. Their parts cost room until then."""
        aborted, started_before = 0, datetime.now(UTC) - older_than
        for page in self._pages("list_multipart_uploads", Prefix=self.root + prefix):
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] <= started_before:
                    self._abort(upload["Key"], upload["UploadId"])
                    aborted += 1
        return aborted

    def _key(self, key: str) -> str:
        return self.root + check_relative_path(key)

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            return getattr(self._client, operation)(Bucket=self.bucket, **arguments)
        except (ClientError, BotoCoreError) as error:
            raise self._endpoint.explain(error, operation) from error

    def _pages(self, operation: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from self._client.get_paginator(operation).paginate(Bucket=self.bucket, **arguments)
        except (ClientError, BotoCoreError) as error:
            raise self._endpoint.explain(error, operation) from error

    def _parts(self, source: Path, size: int) -> tuple[int, int]:
        """(bytes per part, threads) that stay within the number of parts S3 allows and the memory we allow ourselves."""
        part_size = max(self.part_size, -(-size // _MOST_PARTS // _MIB) * _MIB)
        if part_size > _MEMORY // 3:
            most = _MEMORY // 3 * _MOST_PARTS / 2**30
            raise InvalidInput(f"{source} has {size:,} bytes; one file may have {most:.0f} GiB. Save the model in smaller shards.")
        return part_size, max(1, min(self.workers, _MEMORY // part_size - 2))

    def _put_part(self, key: str, upload: str, number: int, block: bytes) -> dict[str, Any]:
        checksum = _checksum(block)
        arguments = {"Key": self._key(key), "UploadId": upload, "PartNumber": number, "Body": block, "ChecksumSHA256": checksum}
        answer = self._call("upload_part", **arguments)
        self._check_stored(f"part {number} of {key}", block, answer)
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def _check_stored(self, what: str, data: bytes, answer: dict[str, Any]) -> None:
        """Compare what the server says it stored: its SHA-256 where it tells one, else an ETag that is an MD5."""
        etag = answer.get("ETag", "").strip('"')
        if "ChecksumSHA256" in answer:
            same = answer["ChecksumSHA256"] == _checksum(data)
        else:
            same = not re.fullmatch("[0-9a-f]{32}", etag) or etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
        if not same:
            raise StoreUnavailable(f"{self._endpoint} stored other bytes than were sent for {what}. Nothing was committed; run again.")

    def _abort(self, key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
        except (ClientError, BotoCoreError) as error:
            print(f"The upload {upload} of {key} was not aborted ({error_code(error)}); a later sweep will do so.", flush=True)

    def _size(self, key: str) -> int | None:
        """Bytes of the object, or None."""
        head = self._head(key)
        return None if head is None else head["ContentLength"]

    def _head(self, key: str) -> dict[str, Any] | None:
        """What a HEAD says of the object, or None. It does not tell a missing key from a missing bucket, so the bucket is asked then."""
        try:
            return self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except (ClientError, BotoCoreError) as error:
            if error_code(error) not in _MISSING:
                raise self._endpoint.explain(error, "head_object") from error
        if not self._bucket_seen:
            self._call("head_bucket")
            self._bucket_seen = True
        return None

    def _blocks(self, key: str) -> Iterator[bytes]:
        """The object's bytes, in order, by ranged reads of which a few are under way at a time."""
        size = self._size(key)
        if size is None:
            raise FileNotFoundError(key)
        return self._parts_of(key, 0, size)

    def _parts_of(self, key: str, begin: int, end: int) -> Iterator[bytes]:
        starts = range(begin, end, self.part_size)
        return in_order((partial(self._read, key, start, min(start + self.part_size, end)) for start in starts), self.workers)

    def _read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The object, or its bytes from ``start`` up to ``end``, as far as there are some; a body that breaks off is asked for again."""
        arguments = {} if start is None else {"Range": f"bytes={start}-{end - 1}"}
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                return self._client.get_object(Bucket=self.bucket, Key=self._key(key), **arguments)["Body"].read()
            except ClientError as error:
                if error_code(error) in _MISSING:
                    raise FileNotFoundError(key) from None
                if error_code(error) in _BEYOND:
                    return b""
                raise self._endpoint.explain(error, "get_object") from error
            except (BotoCoreError, HTTPError, OSError) as error:
                if attempt == _READ_ATTEMPTS:
                    raise self._endpoint.explain(error, "get_object") from error
        raise AssertionError

    def _objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        for page in self._pages("list_objects_v2", Prefix=self.root + prefix):
            yield from page.get("Contents", ())

    def _delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), 1000):
            some = [{"Key": key} for key in keys[start : start + 1000]]
            answer = self._call("delete_objects", Delete={"Objects": some, "Quiet": True})
            for failed in answer.get("Errors", ()):
                raise StoreUnavailable(f"{self._endpoint} did not delete {failed['Key']} ({failed.get('Code')}). Try again.")

    def _delete_abandoned_trees(self, older_than: timedelta) -> int:
        written_before = datetime.now(UTC) - older_than
        trees: dict[str, list[dict[str, Any]]] = {}
        for found in self._objects("artifacts/"):
            trees.setdefault("/".join(found["Key"].removeprefix(self.root).split("/")[:3]), []).append(found)
        abandoned = [
            prefix
            for prefix, objects in trees.items()
            if max(found["LastModified"] for found in objects) <= written_before and not self.exists(f"{prefix}/{MANIFEST}")
        ]
        self._delete([found["Key"] for prefix in abandoned for found in trees[prefix]])
        return len(abandoned)


def _client(endpoint_url: str | None, region: str, workers: int, attempts: int, patience: float) -> Any:
    try:
        keys = {"aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"]}
    except KeyError as error:
        raise ConfigError(f"{error.args[0]} is not set. The object store needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.") from None
    config = ClientConfig(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=10,
        read_timeout=patience,
        max_pool_connections=4 * workers,  # several files are read at a time
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    token = os.environ.get("AWS_SESSION_TOKEN")
    return boto3.client("s3", endpoint_url=endpoint_url, region_name=region, aws_session_token=token, config=config, **keys)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _hashed(blocks: Iterable[bytes], digest: Any) -> Iterator[bytes]:
    for block in blocks:
        digest.update(block)
        yield block
