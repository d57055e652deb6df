"""Start components, wait until they are healthy, notice when one dies, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lfm_tasks.errors import Unavailable
from lfm_tasks.stack.processes import end, spawn

TAIL_LINES = 20


class StackFailed(Unavailable):
    """A component of the embedded stack did not start, died, or is in use by somebody else."""


@dataclass(frozen=True)
class Component:
    """A server. ``healthy`` is cheap, raises nothing, and is asked again and again."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    healthy: Callable[[], bool]
    seconds: float = 240.0
    stop_signal: int = signal.SIGTERM


@dataclass
class Running:
    component: Component
    process: subprocess.Popen[bytes]
    started: float
    startup_seconds: float | None = None
    startup_cpu_seconds: float | None = None
    memory_bytes: int | None = field(default=None)


class Supervisor:
    """Components of one stack. Use as a context manager: leaving it stops everything, last started first.

    :param logs: directory of one log file per component.
    :param grace: seconds between the request to stop and SIGKILL.
    """

    def __init__(self, logs: Path, grace: float = 20.0) -> None:
        self.logs = logs
        self.grace = grace
        self.running: list[Running] = []

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def start(self, component: Component) -> Running:
        self._mark_start(component.name)
        process = spawn(component.command, component.environment, self.log(component.name), component.stop_signal)
        running = Running(component, process, time.monotonic())
        self.running.append(running)
        return running

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str], seconds: float = 300.0) -> None:
        """Run ``command`` to its end; raises :class:`StackFailed` unless it ends well in time."""
        task = self.start(Component(name, tuple(command), environment, lambda: False, seconds))
        deadline = task.started + seconds
        while task.process.poll() is None and time.monotonic() < deadline:
            self.check(but=task)
            time.sleep(0.1)
        if task.process.poll() is None:
            raise StackFailed(f"{name} did not finish within {seconds:g} s.{self.tail(name)}")
        self.running.remove(task)
        if task.process.returncode:
            raise StackFailed(f"{name} {_describe(task.process.returncode)}.{self.tail(name)}")

    def wait(self, waiting: Callable[[Sequence[str]], None] = lambda names: None) -> None:
        """Wait until every component is healthy; ``waiting`` is told the names of those that are not.

        Raises :class:`StackFailed` with the end of its log for the first that dies or takes too long.
        """
        while pending := [one for one in self.running if one.startup_seconds is None]:
            waiting([one.component.name for one in pending])
            self.check()
            for one in pending:
                if one.component.healthy():
                    self._measure(one)
                elif time.monotonic() - one.started > one.component.seconds:
                    name = one.component.name
                    raise StackFailed(f"{name} was not healthy within {one.component.seconds:g} s.{self.tail(name)}")
            time.sleep(0.2)

    def check(self, but: Running | None = None) -> None:
        """Raises :class:`StackFailed` if a component has ended."""
        for one in self.running:
            if one is not but and one.process.poll() is not None:
                name = one.component.name
                raise StackFailed(f"{name} {_describe(one.process.returncode)}.{self.tail(name)}")

    def stop(self) -> list[str]:
        """Stop everything, last started first; returns the names of processes that had to be killed."""
        killed: list[str] = []
        while self.running:
            last = self.running[-1]
            killed += end([(last.process, last.component.stop_signal)], self.grace)
            self.running.pop()
        return killed

    def tail(self, name: str) -> str:
        """The last lines of a component's log since it was started, as the end of an error message."""
        path = self.log(name)
        text = path.read_text(errors="replace") if path.exists() else ""
        lines = text.rpartition(_START)[2].partition("\n")[2].strip().splitlines()[-TAIL_LINES:]
        shown = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
        return f" The last lines of {path}:\n{shown}"

    def _mark_start(self, name: str) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("a") as log:
            log.write(f"{_START}{name} at {time.strftime('%Y-%m-%d %H:%M:%S')} by process {os.getpid()}\n")

    @staticmethod
    def _measure(one: Running) -> None:
        one.startup_seconds = time.monotonic() - one.started
        try:
            root = psutil.Process(one.process.pid)
            tree = [root, *root.children(recursive=True)]
            one.startup_cpu_seconds = sum(sum(process.cpu_times()[:4]) for process in tree)
            one.memory_bytes = sum(process.memory_full_info().pss for process in tree)
        except (psutil.Error, AttributeError):
            return


_START = "--- start of "


def _describe(code: int) -> str:
    return f"stopped with exit code {code}" if code >= 0 else f"was ended by signal {signal.Signals(-code).name}"
