"""Files of artifacts that stay in a remote store: read by byte ranges, and every byte that was used verified in the end.

What is promised: once :meth:`RemoteFile.verify` returns, each byte that any read of the file gave out (reads of the stopped
attempts that :meth:`RemoteFile.recall` told of included) is the byte that was committed. Before that nothing is promised, so
nothing that was made from the bytes may be committed. It costs no second read where ranges come in the file's order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from threading import RLock

from lfm_tasks.artifacts.backend import Backend
from lfm_tasks.artifacts.integrity import changed, gone
from lfm_tasks.artifacts.manifest import FileEntry

_BLOCK = 32 << 20
Range = tuple[int, int]
"""From a byte up to, but without, another."""


class RemoteFile:
    """Implements :class:`lfm_tasks.step.RangeReader`; safe to use from several threads.

    The manifest has one SHA-256 of the whole file, which can only be computed in order. So a read that begins where the ones
    before it ended is hashed as it passes by; of every read the range's own SHA-256 is kept as well. Ranges out of order are
    compared by it when the rest of the file is read and hashed at the end, and so are those of a second pass and of stopped
    attempts.
    """

    def __init__(self, backend: Backend, key: str, entry: FileEntry, name: str) -> None:
        """``name`` for messages."""
        self.backend, self.key, self.entry, self.name = backend, key, entry, name
        self.bytes_read = 0
        self._used: dict[Range, str] = {}
        """SHA-256 of every range that was given out."""
        self._hashed: set[Range] = set()
        """Of ``_used``, those whose bytes are in the digest of the whole file."""
        self._digest, self._end = hashlib.sha256(), 0
        self._lock = RLock()

    @property
    def size(self) -> int:
        return self.entry.size

    def read(self, offset: int, length: int) -> bytearray:
        """Raises :class:`IntegrityError` where the file is gone or shorter, where a range was other bytes before, and where the
        read completes a file that is not the one that was committed.
        """
        data = self._get(offset, length)
        with self._lock:
            place = (offset, offset + length)
            self._use(place, hashlib.sha256(data).hexdigest())
            if offset == self._end:
                self._hashed.add(place)
                self._pass_by(data)
        return data

    def ranges(self) -> list[tuple[Range, str]]:
        """Every range that was given out so far, and its SHA-256."""
        with self._lock:
            return sorted(self._used.items())

    def recall(self, used: Iterable[tuple[Range, str]]) -> None:
        """Ranges that an earlier attempt was given, with their SHA-256: its results are used again. Raises as :meth:`read` does."""
        with self._lock:
            for place, digest in used:
                self._use(place, digest)

    def verify(self) -> None:
        """Read what was not hashed yet; raise :class:`IntegrityError` unless the whole file and every range of it that was used
        are what was committed."""
        with self._lock:
            if any(start < self._end for start, _ in self._used.keys() - self._hashed):
                self._hashed, self._digest, self._end = set(), hashlib.sha256(), 0
            pending = {place: hashlib.sha256() for place in self._used.keys() - self._hashed}
            while self._end < self.size:
                start = self._end
                block = memoryview(self._get(start, min(_BLOCK, self.size - start)))
                for (begin, end), digest in pending.items():
                    digest.update(block[max(begin - start, 0) : max(end - start, 0)])
                self._pass_by(block)
            self._check_whole()
            for place, digest in pending.items():
                self._use(place, digest.hexdigest())
            self._hashed |= pending.keys()

    def _get(self, offset: int, length: int) -> bytearray:
        try:
            data = self.backend.get_range(self.key, offset, length)
        except FileNotFoundError:
            raise gone(self.name) from None
        if len(data) != length:
            raise changed(self.name, f"at most {offset + len(data):,} bytes", f"{self.size:,}")
        with self._lock:
            self.bytes_read += length
        return data

    def _use(self, place: Range, digest: str) -> None:
        if (before := self._used.setdefault(place, digest)) != digest:
            raise changed(f"Range {place[0]}-{place[1] - 1} of {self.name}", f"sha256 {digest}", f"{before}, as it was read before")

    def _pass_by(self, data: bytearray | memoryview) -> None:
        self._digest.update(data)
        self._end += len(data)
        if self._end == self.size:
            self._check_whole()

    def _check_whole(self) -> None:
        if (actual := self._digest.hexdigest()) != self.entry.sha256:
            raise changed(self.name, f"sha256 {actual}", self.entry.sha256)
