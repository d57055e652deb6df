"""Programs that tests need and the project does not: each in a virtual environment of its own, once per checkout."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

import pytest


class Unavailable(Exception):
    """A program cannot be installed or does not start here; the message says why."""


def install(environment: Path, requirement: str, *, borrow: bool = False) -> Path:
    """The interpreter of an environment that holds ``requirement``, made on the first call; raises :class:`Unavailable`.

    :param borrow: what the interpreter that runs the tests has is there as well, so that only what it lacks is installed.
    """
    python, complete = environment / "bin" / "python", environment / requirement
    environment.parent.mkdir(parents=True, exist_ok=True)
    with environment.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            run(f"make an environment for {requirement}", sys.executable, "-m", "venv", "--clear", environment)
            if borrow:
                version = f"python{sys.version_info.major}.{sys.version_info.minor}"
                borrowed = environment / "lib" / version / "site-packages" / "borrowed.pth"
                borrowed.write_text(sysconfig.get_path("purelib") + "\n")
            run(f"install {requirement}", python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement)
            complete.touch()
    return python


def run(what: str, *command: object) -> None:
    """Raises :class:`Unavailable` with what the command said where it fails."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    if result.returncode:
        raise Unavailable(f"Cannot {what}: {result.stderr.strip()[-1500:]}")


def skip_or_fail(error: Unavailable) -> NoReturn:
    """Without the program a test is skipped, but not in CI, which has to have it."""
    if os.environ.get("CI") == "true":
        raise error
    pytest.skip(str(error))
