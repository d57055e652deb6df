"""How a benchmark measures, what it prints and what it writes: both sides in turn in one go, medians, one JSON file.

Run from the repository's root as ``python tests/benchmarks/bench_NAME.py``; such a script does ``from report import …``.
Every measure is a *cost* (seconds, CPU-seconds per 1000 tokens, …), so that ``ratio = peer / ours`` above 1 means ours is better.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lfm_tasks.settings import settings

MINIMUM_RUNS = 5


@dataclass(frozen=True)
class Measured:
    """One cost per run, of both sides, in the order in which they ran."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)


def measure_in_turn(ours: Callable[[], float], peer: Callable[[], float], runs: int = MINIMUM_RUNS, warm_up: int = 0) -> Measured:
    """Call both sides in turn ``runs`` times; each returns its cost. The side that begins changes with every run."""
    for _ in range(warm_up):
        ours(), peer()
    measured = Measured()
    sides = [(ours, measured.ours), (peer, measured.peer)]
    for run in range(runs):
        for side, costs in sides if run % 2 == 0 else sides[::-1]:
            costs.append(side())
        print(f"  run {run + 1}/{runs}: ours {measured.ours[-1]:.4g}, peer {measured.peer[-1]:.4g}", flush=True)
    return measured


def write_result(
    name: str, unit: str, measured: Measured, peer_version: str, goal: float, details: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write ``<home>/bench/NAME.json``, print the table, return what was written.

    :param unit: of the cost, e.g. ``"s"`` or ``"CPU-s per 1000 tokens"``; lower is better.
    :param goal: the ratio peer/ours that is to be reached, e.g. 1.2 for "1.2 times as fast", 1 / 1.3 for "at most 1.3 times the peer".
    :param details: more facts of the same run, e.g. peak memory, as plain JSON.
    """
    ours, peer = statistics.median(measured.ours), statistics.median(measured.peer)
    result = {
        "name": name,
        "unit": unit,
        "ours": ours,
        "peer": peer,
        "peer_version": peer_version,
        "ratio": peer / ours,
        "goal": goal,
        "runs": min(len(measured.ours), len(measured.peer)),
        "machine": machine(),
        "values": {"ours": measured.ours, "peer": measured.peer},
        "details": details or {},
    }
    path = settings().home / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    _print_table(result, measured, path)
    return result


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, memory, system, and how busy the machine was."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _print_table(result: dict[str, Any], measured: Measured, path: Path) -> None:
    reached = "reached" if result["ratio"] >= result["goal"] else "missed"
    table = Table(title=f"{result['name']}: {result['unit']}, lower is better, medians of {result['runs']}")
    for column in ("", "median", "fastest", "slowest"):
        table.add_column(column, justify="left" if not column else "right")
    for side, costs in (("ours", measured.ours), (f"peer ({result['peer_version']})", measured.peer)):
        table.add_row(side, *(f"{value:.4g}" for value in _spread(costs)))
    table.add_row("ratio (peer / ours)", f"{result['ratio']:.3f}", "", "")
    table.add_row(f"goal {reached}", f"≥ {result['goal']:.3f}", "", "")
    for key, value in result["details"].items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value), "", "")
    console = Console()
    console.print(table)
    console.print(f"written to {path}")


def _spread(costs: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(costs), min(costs), max(costs)
