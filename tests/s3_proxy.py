"""Between a client and the S3 server: sees every ranged read, and can disturb it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlparse

from tests.swift_server import S3Server

FAULTS = ("refuse", "cut", "stall")


@dataclass
class Proxy:
    """``ranges``: (key, first byte, last byte) of every ranged GET. ``fault(place)`` names what becomes of the so-many-th, if anything:
    ``refuse`` (503), ``cut`` (half of its body), ``stall`` (no answer for ten seconds).
    """

    endpoint: str
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    fault: Callable[[int], str] = lambda place: ""

    @property
    def of_weights(self) -> list[tuple[str, int, int]]:
        return [one for one in self.ranges if one[0].endswith(".safetensors")]


@contextmanager
def proxy_of(server: S3Server) -> Iterator[Proxy]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            fault = self.seen()
            if fault == "stall":
                time.sleep(10)
            if fault in ("refuse", "stall"):
                self.answer(503, {}, b"")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            there = HTTPConnection(urlparse(server.endpoint).netloc)
            there.request(self.command, self.path, body, {name: value for name, value in self.headers.items() if name != "Expect"})
            answer = there.getresponse()
            self.answer(answer.status, dict(answer.getheaders()), answer.read(), cut=fault == "cut")
            there.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def seen(self) -> str:
            if self.command != "GET" or "Range" not in self.headers:
                return ""
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            proxy.ranges.append((urlparse(self.path).path, int(first), int(last)))
            return proxy.fault(len(proxy.ranges))

        def answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as here:
        proxy = Proxy(f"http://127.0.0.1:{here.server_port}")
        Thread(target=here.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            here.shutdown()
