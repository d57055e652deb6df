"""When a request may be sent: a token bucket for all of them, exponential backoff with jitter for those that failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

Clock = Callable[[], float]
Sleep = Callable[[float], object]


def backoff(failures: int, first: float, longest: float, random: Random) -> float:
    """Seconds to wait after so many failures: uniform in [0, min(longest, first · 2^(failures − 1))] ("full jitter")."""
    return random.uniform(0, min(longest, first * 2.0 ** min(failures - 1, 60)))


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that the header ``Retry-After`` asks for, which is a number or a date (RFC 9110, 10.2.3); None where it is neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())


class TokenBucket:
    """At most ``burst + rate · w`` requests in any window of ``w`` seconds; ``rate`` a second, 0 for no limit. Thread-safe.

    Kept as one time, that at which the bucket would be full again (the generic cell rate algorithm): each caller is told its
    own moment at once, and they go in the order in which they came.
    """

    def __init__(self, rate: float, burst: int, clock: Clock) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._tolerance = (burst - 1) * self._interval
        self._clock, self._lock = clock, threading.Lock()
        self._full_at = self._held_until = clock()

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: the server has asked for it."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)

    def turn(self, sleep: Sleep) -> None:
        """Return when it is the caller's turn."""
        moment = self._reserve()
        while (now := self._clock()) < moment:
            sleep(moment - now)
            if self._held_until > moment:
                moment = self._reserve()

    def _reserve(self) -> float:
        with self._lock:
            moment = max(self._clock(), self._held_until, self._full_at - self._tolerance)
            self._full_at = max(self._full_at, moment) + self._interval
            return moment
