"""What a step read by byte ranges is verified before anything is committed, over all attempts whose work went into the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lfm_tasks.artifacts.checkpoints import StoreCheckpoints
from lfm_tasks.artifacts.remote import RemoteFile
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import IntegrityError
from lfm_tasks.step import Input

READS = "reads.json"


class RemoteReads:
    """The remote files of a step's inputs. Implements :class:`lfm_tasks.step.Checkpoints`, for what is kept in a checkpoint was
    made of bytes that nobody has verified yet: with it goes the SHA-256 of every range that was read.
    """

    def __init__(self, inputs: Mapping[str, Input], checkpoints: StoreCheckpoints) -> None:
        self.checkpoints = checkpoints
        self.files: dict[str, list[RemoteFile]] = {}
        """By artifact and path. An artifact that is given twice is read as two files."""
        for one in [*inputs.values(), *(one.base for one in inputs.values() if one.base)]:
            for path, file in one.remote.items():
                self.files.setdefault(f"{one.sha256}/{path}", []).append(file)

    @property
    def bytes_read(self) -> int:
        return sum(file.bytes_read for file in self._all())

    @contextmanager
    def verified(self) -> Iterator[None]:
        """The block's work is of the committed bytes, or :class:`IntegrityError` is raised and its checkpoints are gone.

        A file of which nothing was used is not read.
        """
        try:
            yield
            for file in self._all():
                if file.ranges():
                    file.verify()
        except IntegrityError:
            if self.files:
                self.checkpoints.clear()
            raise

    def latest(self) -> Path | None:
        """None as well where it was made of reads of a file that is on local disk now: they could not be verified any more."""
        latest = self.checkpoints.latest()
        if latest is None or not (latest / READS).is_file():
            return latest
        reads = json.loads((latest / READS).read_bytes())
        if not reads.keys() <= self.files.keys():
            return None
        for key, ranges in reads.items():
            self.files[key][0].recall(((start, end), digest) for start, end, digest in ranges)
        return latest

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        def write_with_reads(directory: Path) -> None:
            write(directory)
            if self.files:
                reads = {key: [[*place, digest] for file in files for place, digest in file.ranges()] for key, files in self.files.items()}
                (directory / READS).write_bytes(canonical_json(reads))

        self.checkpoints.save(step, write_with_reads)

    def _all(self) -> list[RemoteFile]:
        return [file for files in self.files.values() for file in files]
