"""The query meter, and what a data set's answers may cost. Thread-safe."""

from __future__ import annotations

import threading
from collections import Counter


class Meter:
    """Counts of what was asked and what came back, by name."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def __getitem__(self, name: str) -> int:
        return self._counts[name]


class Budget:
    """Requests and tokens of a whole data set; a limit of 0 is none.

    What an answer has cost counts for every job that uses it, whoever paid: so a job that was killed and goes on spends what
    it would have spent, and its rows are the same. A question is admitted only where its worst case (``most`` tokens) fits
    beside all that is spent or still open, so that neither limit is ever exceeded.
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._limits = (max_requests or float("inf"), max_tokens or float("inf"))
        self._lock = threading.Lock()
        self.requests = self.tokens = 0
        self._open = 0

    def admit(self, requests: int, most: int) -> bool:
        """Take so many requests and set ``most`` tokens aside, if both are there."""
        with self._lock:
            if self.requests + requests > self._limits[0] or self.tokens + self._open + most > self._limits[1]:
                return False
            self.requests += requests
            self._open += most
            return True

    def settle(self, most: int, tokens: int) -> None:
        """What was set aside turned out to be ``tokens``."""
        with self._lock:
            self._open -= most
            self.tokens += tokens

    def repeat(self) -> bool:
        """Take one request more for a question that was admitted, if there is one."""
        return self.admit(1, 0)
