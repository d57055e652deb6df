"""What a step's outcome depends on besides config and inputs: its own code and the environment it runs in."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.hashing import sha256_bytes, sha256_file
from lfm_tasks.artifacts.store import code_listing
from lfm_tasks.config import canonical_json
from lfm_tasks.runner.ranks import world

# Packages whose version may change a step's numbers; a different patch release of Airflow does not.
NUMERIC_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "datasets", "pyarrow", "numpy", "cma")

SOURCES = (".py", ".yaml")


@lru_cache(maxsize=32)
def code_digest(packages: tuple[str, ...]) -> str:
    """SHA-256 over the sources of ``packages`` (dotted names, of modules too), independent of where they are installed."""
    return sha256_bytes(code_listing(code_files(packages)))


@lru_cache(maxsize=32)
def code_files(packages: tuple[str, ...]) -> dict[str, str]:
    """{path: sha256} of the sources of ``packages``, in the order in which they enter the digest."""
    found = {}
    for package in sorted(packages):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"Package {package} of a step's code is not installed.")
        root = Path(spec.origin).parent
        sources = [path for path in root.rglob("*") if path.suffix in SOURCES] if spec.submodule_search_locations else [Path(spec.origin)]
        for path in sorted(sources):
            found[f"{package}/{path.relative_to(root).as_posix()}"] = sha256_file(path)
    return found


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Commit of the checkout this package runs from, with ``-dirty`` appended where it has local changes."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """The environment class: interpreter, numeric packages and kind of device, with a digest over them."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: found for name in NUMERIC_PACKAGES if (found := _version(name)) is not None},
        "device": _device(),
    }
    if world() > 1:
        facts["processes"] = world()
    return {"sha256": sha256_bytes(canonical_json(facts)), **facts}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    """Kind of accelerator, without importing torch."""
    try:
        names = [line.split(":", 1)[1].strip() for line in _nvidia_models()]
    except OSError:
        names = []
    return f"cuda:{names[0]}" if names else "cpu"


def _nvidia_models() -> list[str]:
    found = []
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found += [line for line in information.read_text().splitlines() if line.startswith("Model:")]
    return found
