"""A real disk that is soon full: a tmpfs in a mount namespace of the command's own, which ends with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_small_disk(directory: Path, size: str, command: Sequence[str]) -> list[str]:
    """``command`` with a file system of ``size`` (``"4m"``) mounted at ``directory``; skips where nobody may mount."""
    namespace = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    mount = [*namespace, "sh", "-c", _MOUNT, "sh", size, str(directory)]
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("This machine lets nobody mount a tmpfs in a namespace of his own.")
    return [*mount, *command]
