"""One call of an OpenAI-compatible API, and what each way to fail means."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

import requests
from requests.auth import AuthBase

from lfm_tasks.distillation.black_box.access import address, api_key
from lfm_tasks.distillation.black_box.config import BlackBoxConfig
from lfm_tasks.distillation.black_box.pacing import retry_after
from lfm_tasks.distillation.black_box.reply import Garbage, Reply, parse_reply
from lfm_tasks.errors import ConfigError

MOST_BYTES = 16 * 2**20
"""Of one reply; a server that sends more does not answer."""
PASSING = (408, 409, 425, 429)
NOBODY_MAY = (401, 402, 403, 404, 405)
_BLOCK = 1 << 16


class Passing(Exception):
    """A failure that may pass: the same request may be answered later, not before ``after`` seconds where that is known."""

    def __init__(self, reason: str, kind: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.kind, self.after = kind, after


class Refused(Exception):
    """The API does not take this one question."""


class _Key(AuthBase):
    """The header for the key; being set, it also keeps a ``.netrc`` from being read."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: Any) -> Any:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Endpoint:
    """Thread-safe: each thread has connections of its own. Redirects are not followed, as they could lead anywhere."""

    def __init__(self, options: BlackBoxConfig) -> None:
        self.url, self._key = address(options), api_key(options)
        self._options, self._threads = options, threading.local()

    def ask(self, body: dict[str, Any]) -> Reply:
        """Raises :class:`Passing`, :class:`Refused`, and :class:`ConfigError` for what no question will get past."""
        started = time.monotonic()
        try:
            with self._session().post(self.url, json=body, timeout=self._options.timeout, allow_redirects=False, stream=True) as response:
                text = self._read(response, started)
        except requests.RequestException as error:
            raise Passing(self._hide(f"{type(error).__name__}: {error}"), "no_answer") from None
        if response.status_code != 200:
            raise self._failure(response, text)
        try:
            return parse_reply(text, self._options.api)
        except Garbage as error:
            raise Passing(str(error), "garbage") from None

    def _session(self) -> requests.Session:
        if not hasattr(self._threads, "session"):
            self._threads.session = requests.Session()
            self._threads.session.auth = _Key(self._key)
        return self._threads.session

    def _read(self, response: requests.Response, started: float) -> str:
        """The reply's text without the key, should the server repeat it."""
        found = bytearray()
        for block in response.iter_content(_BLOCK):
            found += block
            if len(found) > MOST_BYTES:
                raise Passing(f"the reply is longer than {MOST_BYTES:,} bytes", "garbage")
            if time.monotonic() - started > self._options.timeout:
                raise Passing(f"the reply was not there after {self._options.timeout:g} s", "no_answer")
        return self._hide(found.decode("utf-8", errors="replace"))

    def _failure(self, response: requests.Response, text: str) -> Exception:
        code, said = response.status_code, f"HTTP {response.status_code}: {' '.join(text.split())[:200]}"
        if code in PASSING or code >= 500:
            kind = "rate_limited" if code == 429 else "server_error"
            return Passing(said, kind, retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
        if code in NOBODY_MAY or code < 400:
            return ConfigError(f"{self.url} answered {said} Check endpoint, model and key; redirects are not followed.")
        return Refused(said)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text
