"""mergekit, the leader that merges are compared with: in a virtual environment of its own, once per checkout.

It borrows torch and the rest from the interpreter that runs the tests, so only mergekit and what it alone needs are installed.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

MERGEKIT = "mergekit==0.1.5"
KERNELS = Path(__file__).with_name("mergekit_kernels.py")


class MergekitMissing(Exception):
    """mergekit cannot be installed here; the message says why."""


def install(environment: Path) -> Path:
    """The interpreter of an environment that holds mergekit, made on the first call; raises :class:`MergekitMissing`."""
    python, complete = environment / "bin" / "python", environment / MERGEKIT
    environment.parent.mkdir(parents=True, exist_ok=True)
    with environment.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            _run("make an environment for mergekit", sys.executable, "-m", "venv", "--clear", environment)
            version = f"python{sys.version_info.major}.{sys.version_info.minor}"
            borrowed = environment / "lib" / version / "site-packages" / "borrowed.pth"
            borrowed.write_text(sysconfig.get_path("purelib") + "\n")
            _run("install mergekit", python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", MERGEKIT)
            complete.touch()
    return python


def merged_tensors(python: Path, cases: list[dict], tensors: dict[str, Tensor], work: Path) -> dict[str, Tensor]:
    """What mergekit's kernels make of each case, by its ``id`` (see ``mergekit_kernels.py``)."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, work / "inputs.safetensors")
    (work / "cases.json").write_text(json.dumps(cases))
    _run("run mergekit's kernels", python, KERNELS, work / "inputs.safetensors", work / "cases.json", work / "merged.safetensors")
    return load_file(work / "merged.safetensors")


def merge_directories(python: Path, config: dict, output: Path, *options: str) -> None:
    """``mergekit-yaml`` on whole models."""
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(config))  # JSON is YAML
    _run("run mergekit-yaml", python.with_name("mergekit-yaml"), path, output, "--quiet", *options)


def _run(what: str, *command: object) -> None:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    if result.returncode:
        raise MergekitMissing(f"Cannot {what}: {result.stderr.strip()[-1500:]}")
