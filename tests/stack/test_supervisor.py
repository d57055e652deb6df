"""With real child processes: the point of the supervisor is what is left when it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from lfm_tasks.stack.supervisor import Component, StackFailed, Supervisor

ROOT = Path(__file__).parents[2]


def python(name: str, code: str, healthy=lambda: True, **options) -> Component:
    return Component(name, (sys.executable, "-u", "-c", textwrap.dedent(code)), os.environ, healthy, **options)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text().strip()


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


SLEEP = "import time; time.sleep(600)"


def test_a_component_that_dies_early_is_named_with_the_end_of_its_log(tmp_path):
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(python("server", "import sys; print('port 80 is taken'); sys.exit(3)", healthy=lambda: False))
        with pytest.raises(StackFailed, match=r"server stopped with exit code 3\. The last lines of .*server\.log:\n    port 80 is taken"):
            supervisor.wait()


def test_the_log_that_is_shown_is_that_of_this_start(tmp_path):
    with Supervisor(tmp_path) as supervisor:
        supervisor.run("once", [sys.executable, "-c", "print('old trouble')"], os.environ)
        with pytest.raises(StackFailed) as raised:
            supervisor.run("once", [sys.executable, "-c", "raise SystemExit('new trouble')"], os.environ)
    assert "new trouble" in str(raised.value)
    assert "old trouble" not in str(raised.value)
    assert "old trouble" in (tmp_path / "once.log").read_text()


def test_a_component_that_never_gets_healthy_is_an_error(tmp_path):
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(python("slow", SLEEP, healthy=lambda: False, seconds=0.3))
        with pytest.raises(StackFailed, match=r"slow was not healthy within 0\.3 s"):
            supervisor.wait()
        pid = supervisor.running[0].process.pid
    assert gone(pid)


def test_death_after_the_start_is_noticed(tmp_path):
    with Supervisor(tmp_path) as supervisor:
        server = supervisor.start(python("server", SLEEP))
        supervisor.wait()
        supervisor.check()
        server.process.kill()
        server.process.wait()
        with pytest.raises(StackFailed, match="server was ended by signal SIGKILL"):
            supervisor.check()


def test_waiting_is_told_what_is_waited_for(tmp_path):
    told: list[list[str]] = []
    answers = iter([False, True])
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(python("quick", SLEEP))
        supervisor.start(python("late", SLEEP, healthy=lambda: next(answers)))
        supervisor.wait(lambda names: told.append(list(names)))
    assert told == [["quick", "late"], ["late"]]


def test_what_ignores_sigterm_is_killed_after_the_grace_period(tmp_path):
    ready = tmp_path / "ready"
    deaf = (
        f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', file=open({str(ready)!r}, 'w')); time.sleep(600)"
    )
    supervisor = Supervisor(tmp_path, grace=0.5)
    process = supervisor.start(python("deaf", deaf)).process
    wait_for(ready)
    killed = supervisor.stop()
    assert process.returncode == -signal.SIGKILL
    assert len(killed) == 1


def test_grandchildren_in_sessions_of_their_own_end_too(tmp_path):
    """A step's work is in a process group of its own, so that killing a group is not enough."""
    file = tmp_path / "grandchild"
    code = f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid, file=open({str(file)!r}, "w"))
        time.sleep(600)
    """
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(python("parent", code))
        grandchild = int(wait_for(file))
    assert gone(grandchild)


def test_the_last_started_is_stopped_first(tmp_path):
    order = tmp_path / "order"
    code = """
        import signal, sys, time
        def end(*_):
            print(sys.argv[1], file=open(sys.argv[2], "a"))
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        print("ready", file=open(sys.argv[2] + sys.argv[1], "w"))
        time.sleep(600)
    """
    with Supervisor(tmp_path) as supervisor:
        for name in ("database", "server"):
            component = python(name, code)
            supervisor.start(Component(name, (*component.command, name, str(order)), os.environ, component.healthy))
            wait_for(Path(f"{order}{name}"))
    assert order.read_text().split() == ["server", "database"]


def test_an_exception_stops_everything(tmp_path):
    with pytest.raises(RuntimeError), Supervisor(tmp_path) as supervisor:
        pid = supervisor.start(python("server", SLEEP)).process.pid
        raise RuntimeError
    assert gone(pid)


def test_a_command_that_takes_too_long_is_stopped(tmp_path):
    with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StackFailed, match=r"migrate did not finish within 0\.3 s"):
            supervisor.run("migrate", [sys.executable, "-c", SLEEP], os.environ, seconds=0.3)
        pid = supervisor.running[0].process.pid
    assert gone(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl")
def test_components_do_not_outlive_a_supervisor_that_is_killed(tmp_path):
    file = tmp_path / "pid"
    code = f"""
        import os, sys, time
        from pathlib import Path
        from lfm_tasks.stack.supervisor import Component, Supervisor
        supervisor = Supervisor(Path({str(tmp_path)!r}))
        running = supervisor.start(Component("server", (sys.executable, "-c", {SLEEP!r}), os.environ, lambda: True))
        print(running.process.pid, file=open({str(file)!r}, "w"))
        time.sleep(600)
    """
    ours = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    pid = int(wait_for(file))
    ours.kill()
    ours.wait()
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)
