"""A real S3 server for tests: one node of OpenStack Swift with its s3api, as four plain processes on loopback."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.environments import Unavailable, install, run

SWIFT = "swift==2.38.3"
SERVERS = ("account", "container", "object", "proxy")
_STORAGE = SERVERS[:3]

_RINGS = """
import sys
from swift.common.ring import RingBuilder
for path, port in zip(sys.argv[1::2], sys.argv[2::2]):
    builder = RingBuilder(1, 1, 0)
    builder.add_dev(dict(id=0, region=1, zone=1, weight=1.0, ip="127.0.0.1", port=int(port), device="disk", meta=""))
    builder.rebalance()
    builder.get_ring().save(path)
"""

_PIPELINE = {
    "catch_errors": "",
    "gatekeeper": "",
    "healthcheck": "",
    "listing_formats": "",
    "bulk": "",
    "s3api": "location = us-east-1\ns3_acl = false\ncheck_bucket_owner = false",
    "tempauth": "user_lfm_tester = {secret_key} .admin",
    "copy": "",
    "slo": "",
    "dlo": "",
    "symlink": "",
    "versioned_writes": "allow_object_versioning = true",
}


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    access_key: str
    secret_key: str


@contextmanager
def running_swift(root: Path, environment: Path) -> Iterator[S3Server]:
    """A server with its state in ``root`` and its packages in ``environment``; all its processes are gone at the end."""
    python = install(environment, SWIFT)
    server = S3Server(f"http://127.0.0.1:{_free_ports(1)[0]}", "lfm:tester", secrets.token_hex(16))
    ports = dict(zip(_STORAGE, _free_ports(3), strict=True)) | {"proxy": int(server.endpoint.rpartition(":")[2])}
    etc = _configure(root, python, ports, server.secret_key)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with (root / "log").open("wb") as log:
            for kind in SERVERS:
                if kind == "proxy":
                    _wait(lambda: all(_answers(ports[storage]) for storage in _STORAGE), processes, root)
                command = [python, python.with_name(f"swift-{kind}-server"), etc / f"{kind}.conf", "--verbose"]
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True))
        _wait(lambda: _healthy(server.endpoint), processes, root)
        yield server
    finally:
        _stop(processes)


def _configure(root: Path, python: Path, ports: dict[str, int], secret_key: str) -> Path:
    etc = root / "etc"
    for directory in (etc, root / "devices" / "disk", root / "cache"):
        directory.mkdir(parents=True)
    salt = f"swift_hash_path_suffix = {secrets.token_hex(8)}\nswift_hash_path_prefix = {secrets.token_hex(8)}"
    (etc / "swift.conf").write_text(f"[swift-hash]\n{salt}\n[storage-policy:0]\nname = one\ndefault = yes\n")
    common = f"swift_dir = {etc}\nbind_ip = 127.0.0.1\nuser = {pwd.getpwuid(os.getuid()).pw_name}\nworkers = 0\nlog_level = WARNING\n"
    disk = f"devices = {root / 'devices'}\nmount_check = false\nrecon_cache_path = {root / 'cache'}\n"
    for kind in _STORAGE:
        sections = f"[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
        (etc / f"{kind}.conf").write_text(f"[DEFAULT]\n{common}{disk}bind_port = {ports[kind]}\n{sections}")
    filters = "".join(
        f"[filter:{name}]\nuse = egg:swift#{name}\n{options.format(secret_key=secret_key)}\n" for name, options in _PIPELINE.items()
    )
    (etc / "proxy.conf").write_text(
        f"[DEFAULT]\n{common}bind_port = {ports['proxy']}\n[pipeline:main]\npipeline = {' '.join(_PIPELINE)} proxy-server\n"
        f"[app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\naccount_autocreate = true\n{filters}"
    )
    run("build Swift's rings", python, "-c", _RINGS, *(word for kind in _STORAGE for word in (etc / f"{kind}.ring.gz", ports[kind])))
    return etc


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait(ready, processes: list[subprocess.Popen[bytes]], root: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
            raise Unavailable(f"Swift does not start: {(root / 'log').read_text(errors='replace')[-1000:]}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _healthy(endpoint: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=5) as answer:
        return answer.status == 200
    return False


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask each server's process group to end, the proxy first; kill what remains after five seconds."""
    for process in reversed(processes):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in reversed(processes):
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
