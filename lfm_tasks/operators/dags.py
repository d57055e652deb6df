"""What the DAGs have in common."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lfm_tasks.operators.notify import failure_notifiers

HEAVY = {"pool": "cpu_heavy"}
"""Arguments of a task that computes: as many run at a time as the pool has slots."""


def common(retries: int = 2, retry_delay: timedelta = timedelta(seconds=15), **changes: Any) -> dict[str, Any]:
    """Arguments of a ``DAG``: started by hand, up to four runs at a time, people are told when one fails; but for ``changes``."""
    return {
        "schedule": None,
        "catchup": False,
        "max_active_runs": 4,
        "on_failure_callback": failure_notifiers(),
        "default_args": {"owner": "lfm", "retries": retries, "retry_delay": retry_delay},
    } | changes
