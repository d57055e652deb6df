"""Seconds to commit a model of 1 GB to a ``file://`` store, beside ``sha256sum`` + ``cp -r`` + ``sync`` of the same files.

Both sides read from the page cache, hash, copy, and flush every file to the medium before they are done (``sync FILE…`` is
fsync of each). The store is opened in a process of its own that is running already, as a step's is; its largest resident
memory is among the details, as is the peer's time without ``sync``, after which a power cut would lose the copy.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import measure_in_turn, write_result

MIB = 1 << 20
SHARDS, SHARD = 4, 256 * MIB
GOAL = 1 / 1.3
ALLOWED_MIB = 200
OURS = """
import json, sys, time
from pathlib import Path
from lfm_tasks.artifacts.store import Store
from lfm_tasks.memory import peak_rss_bytes
store = Store.open(f"file://{sys.argv[2]}")
started = time.perf_counter()
store.commit(Path(sys.argv[1]), "model")
seconds = time.perf_counter() - started
print(json.dumps([seconds, peak_rss_bytes() / 2**20]))
"""


def write_model(directory: Path) -> Path:
    directory.mkdir()
    for shard in range(SHARDS):
        with (directory / f"model-{shard}.safetensors").open("wb") as file:
            for _ in range(SHARD // MIB):
                file.write(os.urandom(MIB))
    (directory / "config.json").write_text("{}")
    return directory


class Bench:
    def __init__(self, root: Path) -> None:
        self.root, self.model = root, write_model(root / "model")
        self.peaks: list[float] = []
        self.unflushed: list[float] = []

    def ours(self) -> float:
        def commit(target: Path) -> float:
            done = subprocess.run([sys.executable, "-c", OURS, self.model, target], check=True, capture_output=True, text=True)
            seconds, peak = json.loads(done.stdout)
            self.peaks.append(peak)
            return seconds

        return self._quietly(commit)

    def peer(self) -> float:
        files = [path.name for path in self.model.iterdir()]

        def copy(target: Path) -> float:
            started = time.perf_counter()
            subprocess.run(["sha256sum", *files], cwd=self.model, check=True, capture_output=True)
            subprocess.run(["cp", "-r", self.model, target], check=True)
            self.unflushed.append(time.perf_counter() - started)
            subprocess.run(["sync", *files], cwd=target, check=True)
            return time.perf_counter() - started

        return self._quietly(copy)

    def _quietly(self, side: Callable[[Path], float]) -> float:
        """Nothing waits to be written when a side begins, and each writes to a fresh place."""
        target = self.root / "target"
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        return side(target)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lfm-bench-") as directory:
        bench = Bench(Path(directory))
        measured = measure_in_turn(bench.ours, bench.peer, runs=7, warm_up=1)
    version = subprocess.run(["sha256sum", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    details = {
        "largest resident memory, MiB": max(bench.peaks),
        "allowed, MiB": ALLOWED_MIB,
        "peer without sync, s": statistics.median(bench.unflushed[1:]),
        "model, MiB": SHARDS * SHARD // MIB,
    }
    write_result("commit", "s", measured, version, GOAL, details)


if __name__ == "__main__":
    main()
