"""Kill -9 at a chosen moment: a forked child ends itself just before its n-th call into the operating system."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

FILE_CALLS = frozenset(["open", "mkdir", "write", "flush", "fsync", "flock", "rename", "replace", "unlink", "rmdir", "close"])
SOCKET_CALLS = frozenset(["sendall"])


def survives(work: Callable[[], object], moment: int, calls: frozenset[str]) -> bool:
    """Do ``work`` in a child that is killed before call number ``moment`` of those named; True if the work ended before that."""
    pid = os.fork()
    if pid == 0:
        _work_and_leave(work, moment, calls)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}; its traceback is above"
    return code == 0


def _work_and_leave(work: Callable[[], object], moment: int, calls: frozenset[str]) -> None:
    left = [moment]

    def count(frame: object, event: str, called: object) -> None:
        if event == "c_call" and getattr(called, "__name__", "") in calls:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    try:
        threading.setprofile(count)
        sys.setprofile(count)
        work()
        sys.setprofile(None)
        os._exit(0)
    except BaseException:
        sys.setprofile(None)
        traceback.print_exc()
        os._exit(1)
