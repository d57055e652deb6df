"""A mail server on loopback that keeps what it is given: enough of RFC 5321 for a stock client."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message


class MailServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.messages: list[Message] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def subjects(self) -> list[str]:
        return [str(make_header(decode_header(message["Subject"]))) for message in self.messages]

    @property
    def texts(self) -> list[str]:
        return [part.get_payload(decode=True).decode() for message in self.messages for part in message.walk() if not part.is_multipart()]

    def connection(self) -> str:
        """Airflow's connection to this server, as the value of ``AIRFLOW_CONN_…``."""
        extra = "disable_tls=true&disable_ssl=true&from_email=lfm%40localhost"
        return f"smtp://127.0.0.1:{self.port}/?{extra}"


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._say("220 localhost")
        while line := self.rfile.readline():
            verb = line.strip().upper().partition(b" ")[0]
            if verb == b"QUIT":
                self._say("221 bye")
                return
            if verb == b"DATA":
                self._say("354 go on")
                self.server.messages.append(message_from_bytes(b"".join(iter(self.rfile.readline, b".\r\n"))))
            self._say("250 ok")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
