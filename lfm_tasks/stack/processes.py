"""Start a process in a session of its own, and end it with everything that descends from it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path, stop_signal: int = signal.SIGTERM) -> subprocess.Popen[bytes]:
    """Start ``command`` with its output appended to ``log``.

    It is in a session of its own, so that a terminal's Ctrl-C reaches only us; on Linux it is sent ``stop_signal`` should
    we be killed ourselves.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent(os.getpid(), stop_signal),
        )


def _end_with_parent(parent: int, stop_signal: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, stop_signal)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def end(processes: Iterable[tuple[subprocess.Popen[bytes], int]], grace: float) -> list[str]:
    """Send each process its signal and its descendants SIGTERM, children first; after ``grace`` seconds kill what is left.

    Descendants are followed by their parents, not by their process group, because a step's work has a group of its own.
    Returns the names of those that had to be killed.
    """
    roots = [(process, stop_signal) for process, stop_signal in processes if process.poll() is None]
    known: dict[int, psutil.Process] = {}
    _collect(roots, known)
    if all(stop_signal == signal.SIGTERM for _, stop_signal in roots):
        _signal(reversed(known.values()), signal.SIGTERM)
    for process, stop_signal in roots:
        with suppress(ProcessLookupError):
            process.send_signal(stop_signal)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and (alive := _alive(roots, known)):
        _collect(roots, known)
        time.sleep(0.05)
    alive = _alive(roots, known)
    killed = [_name(one) for one in alive]
    _signal(alive, signal.SIGKILL)
    for process, _ in roots:
        process.wait()
    psutil.wait_procs(alive, timeout=5)
    return killed


def _collect(roots: Iterable[tuple[subprocess.Popen[bytes], int]], known: dict[int, psutil.Process]) -> None:
    for process, _ in roots:
        with suppress(psutil.Error):
            root = psutil.Process(process.pid)
            for one in [root, *root.children(recursive=True)]:
                known.setdefault(one.pid, one)


def _alive(roots: Iterable[tuple[subprocess.Popen[bytes], int]], known: Mapping[int, psutil.Process]) -> list[psutil.Process]:
    for process, _ in roots:
        process.poll()
    return [one for one in known.values() if _runs(one)]


def _runs(one: psutil.Process) -> bool:
    """``is_running`` compares creation times, so that a reused process id is not ours."""
    with suppress(psutil.Error):
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    return False


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for one in processes:
        with suppress(psutil.Error):
            one.send_signal(number)


def _name(one: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{one.name()} ({one.pid})"
    return str(one.pid)
