"""``lfm replay``: rebuild an artifact from its records and say whether the same comes out again."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from lfm_tasks.commands.jobs import run_here
from lfm_tasks.commands.references import HELP, find_artifact, open_store
from lfm_tasks.commands.tables import number, print_table
from lfm_tasks.runner.config import ReplayConfig
from lfm_tasks.runner.job import Job

DIVERGED = 1


def register(commands: Any) -> None:
    field = ReplayConfig.model_fields["tolerance"]
    replay = commands.add_parser("replay", help="rebuild an artifact from its records and compare, step by step")
    replay.add_argument("reference", help=HELP)
    replay.add_argument("--tolerance", type=float, default=field.default, help=field.description)
    replay.add_argument("--json", action="store_true")
    replay.set_defaults(call=_replay)


def _replay(options: argparse.Namespace) -> int:
    """The exit code is 0 when every step gave the same, or the same within the tolerance."""
    store = open_store()
    artifact = find_artifact(options.reference, store)
    job = Job(step="replay", config={"tolerance": options.tolerance}, inputs={"artifact": f"sha256:{artifact.sha256}"})
    with redirect_stdout(sys.stderr):
        result = run_here(job)
    report = result.outputs["report"].removeprefix("sha256:")
    text = (store.backend.get_bytes(f"artifacts/report/{report}/replay.json") or b"{}").decode()
    found = json.loads(text)
    if options.json:
        print(text, end="")
    else:
        rows = [
            (
                f"{step['step']} {step['method'] or ''}",
                step["record"][:12],
                step["verdict"],
                number(step["difference"]),
                " ".join(step["why"]),
            )
            for step in found["steps"]
        ]
        print_table(("step", "record", "verdict", "difference", "why"), rows)
        print(f"{found['verdict']}: {artifact.kind} sha256:{artifact.sha256}  report: sha256:{report}")
    return DIVERGED if found["verdict"] in ("diverged", "failed") else 0
