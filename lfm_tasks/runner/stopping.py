"""How an attempt is asked to stop: SIGTERM, or the death of the process that started it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import psutil

GRACE_SECONDS = 60.0
"""How long a stopping attempt may take to write its checkpoint before it ends itself."""


class StopSignal:
    """Set by the first SIGTERM or SIGINT. Polled by the step; never raises into the middle of an update."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def install(self, parent_pid: int | None = None) -> None:
        """Listen for signals, and end like on SIGTERM when the process ``parent_pid``, which started this one, has ended."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if parent_pid is not None:
            threading.Thread(target=self._watch, args=(parent_pid,), name="parent-watch", daemon=True).start()

    def _on_signal(self, *_: object) -> None:
        if not self._event.is_set():
            self._event.set()
            timer = threading.Timer(GRACE_SECONDS, os._exit, args=(143,))
            timer.daemon = True
            timer.start()

    def _watch(self, parent_pid: int) -> None:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(parent_pid)
            while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
