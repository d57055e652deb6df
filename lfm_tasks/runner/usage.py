"""What an attempt uses: seconds of wall, CPU and device, memory, and bytes that the store moves."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

from lfm_tasks.artifacts.store import Store
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.runner.ranks import world


@dataclass(frozen=True)
class Usage:
    """Where the clocks and counters stood when the attempt began."""

    wall: float
    cpu: float
    read: int
    written: int

    @classmethod
    def now(cls, store: Store) -> Usage:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(time.monotonic(), sum(u.ru_utime + u.ru_stime for u in used), store.bytes_read, store.bytes_written)

    def since(self, store: Store) -> dict[str, float]:
        """The record's fields. Device seconds are those for which devices were held: wall time times devices."""
        now, (devices, peak_device) = Usage.now(store), _devices()
        wall = now.wall - self.wall
        return {
            "wall_seconds": round(wall, 3),
            "cpu_seconds": round(now.cpu - self.cpu, 3),
            "device_seconds": round(wall * devices, 3),
            "peak_rss_bytes": peak_rss_bytes(),
            "peak_device_bytes": peak_device,
            "bytes_read": now.read - self.read,
            "bytes_written": now.written - self.written,
        }


def _devices() -> tuple[int, int]:
    """How many accelerators the job holds, and the peak of this process's memory on its own. None unless the step used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0, 0
    return world(), torch.cuda.max_memory_allocated()
