"""What a record says of memory is the step's own."""

from __future__ import annotations

import subprocess
import sys

from lfm_tasks import memory
from tests.artifacts.media import tree
from tests.conftest import ROOT


def peak_after(megabytes: int) -> float:
    """Peak in MiB of a program that held so much for a moment, started by one that holds 300 MiB."""
    child = f"from lfm_tasks.memory import peak_rss_bytes as peak; bytearray({megabytes} << 20); print(peak() / 2**20)"
    parent = f"import subprocess, sys; held = bytearray(b'x') * (300 << 20); subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_the_memory_of_the_program_that_started_it_is_not_counted():
    assert peak_after(0) < 100


def test_what_was_held_for_a_moment_is_counted():
    assert 95 < peak_after(100) - peak_after(0) < 105


def test_a_containers_limit_bounds_what_is_available(tmp_path, monkeypatch):
    """Pages of files that nobody uses are given up for it."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    assert memory.available_bytes() > 1 << 20
    tree(tmp_path, {"memory.max": b"1000\n", "memory.current": b"900\n", "memory.stat": b"anon 500\ninactive_file 300\n"})
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_bytes() == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 1 << 20
