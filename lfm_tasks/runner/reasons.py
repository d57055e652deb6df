"""Why a step may give other bytes than it once gave: what differs between its record and here and now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfm_tasks.artifacts.store import Store
from lfm_tasks.runner.environment import code_digest, code_files, environment, git_commit
from lfm_tasks.steps import STEPS
from lfm_tasks.tracking.differences import environment_difference


def reasons(record: Mapping[str, Any], store: Store) -> list[str]:
    """Sentences about code, environment and seed; one that says so where all of them are as they were."""
    found = [*_code(record, store), *_environment(record)]
    if found:
        return found
    seed = f"seed {record['seed']}" if record.get("seed") is not None else "no seed"
    return [f"Code, environment and inputs are those of the record ({seed}): the step does not repeat itself on this machine."]


def _code(record: Mapping[str, Any], store: Store) -> list[str]:
    recorded, packages = record["code"], STEPS[record["step"]].code
    if recorded["sha256"] == code_digest(packages):
        return []
    before, now = store.get_code(recorded["sha256"]), code_files(packages)
    commits = f"commit {recorded.get('git_commit') or 'unknown'} then, {git_commit() or 'unknown'} now"
    if not before:
        return [f"The step's code changed; the store holds no listing of it from then, so the files cannot be told ({commits})."]
    changed = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
    return [f"The step's code changed in {', '.join(changed)} ({commits})."]


def _environment(record: Mapping[str, Any]) -> list[str]:
    changes = environment_difference(record["environment"], environment())
    named = [f"{c['field'].removeprefix('packages.')} {c['first'] or 'absent'} then, {c['second'] or 'absent'} now" for c in changes]
    return [f"The environment differs: {'; '.join(named)}."] if named else []
