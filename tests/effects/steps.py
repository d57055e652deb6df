"""Run steps as the platform runs them, with its cache and its records, and write a table of many seeds.

Run from the repository's root as ``python tests/effects/NAME.py`` (``make effect NAME=…``); such a script does ``from steps import …``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lfm_tasks.form import override
from lfm_tasks.runner.job import Job, JobResult, numbered_inputs
from lfm_tasks.runner.launcher import Child
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import settings
from lfm_tasks.steps import STEPS

SEEDS = (0, 1, 2)
FILES = settings().home / "effects" / "files"
"""Where a script may write what its steps shall import."""

os.environ["LFM_ALLOWED_PREFIXES"] = f"file://{FILES}"
settings.cache_clear()


def run(step: str, inputs: Mapping[str, str | list[str]], *, alone: bool = False, **values: Any) -> JobResult:
    """:param alone: in a process of its own, whose memory is the step's. Raises :class:`RuntimeError` where that fails."""
    job = Job(step=step, config=override(STEPS[step], {}, values), inputs=numbered_inputs(inputs))
    if not alone:
        return run_job(job, settings(), StopSignal())
    result = Child(job, settings()).follow(lambda line: None)
    if result.state != "success":
        raise RuntimeError(f"{step} {values}: {result.error.message}")
    return result


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds; of a single seed its value."""
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def write(name: str, result: Mapping[str, Any], table: str) -> None:
    """``<home>/effects/NAME.json`` and ``NAME.md``."""
    directory = settings().home / "effects"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (directory / f"{name}.md").write_text(table + "\n")
    print(f"\n{table}\n\nWritten to {directory}/{name}.json", file=sys.stderr)
