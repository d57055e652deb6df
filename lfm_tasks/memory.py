"""Largest resident memory of this process, and what it may still take."""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def peak_rss_bytes() -> int:
    """On Linux the kernel's high-water mark of this program; ``ru_maxrss`` would count the program that started it as well."""
    with suppress(FileNotFoundError):
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def available_bytes() -> int:
    """What the machine has left without swapping; in a container with a limit of its own (cgroup v2) no more than that leaves."""
    left = psutil.virtual_memory().available
    with suppress(FileNotFoundError, ValueError):
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = int(re.search(r"^inactive_file (\d+)$", (CGROUP / "memory.stat").read_text(), re.MULTILINE)[1])
        left = min(left, limit - used + cached)
    return left
