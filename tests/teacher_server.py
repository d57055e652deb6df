"""A real HTTP server with the two calls of an OpenAI-compatible API. Deterministic; it fails, waits and talks nonsense as it is told."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Spoken = list[tuple[str, float, dict[str, float]]]
Faulty = Callable[[int, str], "Fault | None"]
"""What is wrong with the n-th request (from 1), which asks for this text; None: nothing."""


@dataclass(frozen=True)
class Fault:
    """Answer with ``status`` and ``body`` instead; after ``seconds``; or never (``hold``), until the server is closed."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    hold: bool = False


def answer(text: str) -> str:
    """The longest word of the question."""
    return max(text.split(), key=len)


def spoken(answer: str, asked: str, count: int) -> Spoken:
    """Its words, each of the probability 1/2."""
    tokens = [word if i == 0 else f" {word}" for i, word in enumerate(answer.split(" "))]
    return [(token, math.log(0.5), top(token, count)) for token in tokens]


@dataclass
class TeacherServer:
    """``spoken`` says of an answer to a question its tokens, their log-probabilities and so many others' at each place."""

    fault: Faulty = lambda count, text: None
    answer: Callable[[str], str] = answer
    spoken: Callable[[str, str, int], Spoken] = spoken
    key: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> TeacherServer:
        self.lock, self.closing = threading.Lock(), threading.Event()
        handler = type("Handler", (_Handler,), {"teacher": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def tokens(self) -> int:
        """What all answers have cost."""
        return sum(count * (cost(text) + cost(self.answer(text))) for text, count in self.answered.items())

    def reply(self, body: dict[str, Any], path: str) -> dict[str, Any]:
        text, chat = asked(body), path.endswith("/chat/completions")
        usage = {"prompt_tokens": cost(text), "completion_tokens": cost(self.answer(text))}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": self.answer(text)}} if chat else {"text": self.answer(text)}
        if body.get("logprobs"):
            said = self.spoken(self.answer(text), text, body["top_logprobs"] if chat else body["logprobs"])
            if chat:
                content = [
                    {"token": token, "logprob": p, "top_logprobs": [{"token": o, "logprob": v} for o, v in others.items()]}
                    for token, p, others in said
                ]
                choice["logprobs"] = {"content": content}
            else:
                tokens, logprobs, tops = (list(column) for column in zip(*said, strict=True))
                choice["logprobs"] = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops}
        return {"model": f"{body['model']}-0301", "choices": [choice], "usage": usage}


def asked(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def cost(text: str) -> int:
    return len(text.split())


def top(token: str, count: int) -> dict[str, float]:
    """The token with probability 1/2, others with 1/4, 1/8, …"""
    return {token: math.log(0.5)} | {f"other {i}": math.log(0.5 ** (i + 1)) for i in range(1, count)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed."""


class _Handler(BaseHTTPRequestHandler):
    teacher: TeacherServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.teacher.lock:
            self.teacher.bodies.append(body)
            count = len(self.teacher.bodies)
        fault = self.teacher.fault(count, asked(body)) or Fault()
        if self.teacher.closing.wait(3600 if fault.hold else fault.seconds):
            self.close_connection = True
            return
        if self.teacher.key and self.headers.get("Authorization") != f"Bearer {self.teacher.key}":
            fault = Fault(401, f"wrong key: {self.headers.get('Authorization')}".encode())
        if fault.status == 200 and fault.body is None:
            with self.teacher.lock:
                self.teacher.answered[asked(body)] += 1
            content = json.dumps(self.teacher.reply(body, self.path)).encode()
        else:
            content = fault.body if fault.body is not None else b'{"error": {"message": "overloaded"}}'
        self._send(fault, content)

    def _send(self, fault: Fault, content: bytes) -> None:
        try:
            self.send_response(fault.status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **fault.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the client has given up
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
