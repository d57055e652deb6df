"""Largest resident memory of this process."""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from pathlib import Path


def peak_rss_bytes() -> int:
    """On Linux the kernel's high-water mark of this program; ``ru_maxrss`` would count the program that started it as well."""
    with suppress(FileNotFoundError):
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
