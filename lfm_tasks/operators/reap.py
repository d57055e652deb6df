"""Close MLflow runs whose process is gone, after asking Airflow what became of the task; tidy the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context

from lfm_tasks.operators.connections import connect
from lfm_tasks.proposals import remember

ENDED = {"success", "failed", "skipped", "upstream_failed", "removed", "up_for_retry", "up_for_reschedule", "None"}


class ReapOperator(BaseOperator):
    """Close runs left RUNNING by a SIGKILL.

    :param older_than: runs that no Airflow task answers for are closed when they began longer ago than this.
    """

    def __init__(self, *, older_than: timedelta = timedelta(hours=24), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.older_than = older_than

    def execute(self, context: Context) -> list[dict[str, str]]:
        from dataclasses import asdict

        from lfm_tasks.artifacts.store import Store
        from lfm_tasks.tracking.reaper import reap
        from lfm_tasks.tracking.tracker import Tracker

        places = connect()
        tracker = Tracker.open(places, Store.open(places.store))
        ti = context["ti"]

        def task_state(dag_id: str, run_id: str, task_id: str, map_index: int) -> str | None:
            states = ti.get_task_states(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id]).get(run_id, {})
            name = task_id if map_index < 0 else f"{task_id}_{map_index}"
            return str(states[name]) if name in states else None

        def is_alive(tags: Mapping[str, str]) -> bool | None:
            return is_task_alive(tags, task_state, ti.get_dagrun_state, lambda key: tracker.find_run(key) is not None)

        closed = [asdict(one) for one in reap(tracker, is_alive, self.older_than)]
        for one in closed:
            self.log.info("closed run %s (%s) as %s", one["run_id"], one["key"], one["status"])
        return closed


def is_task_alive(
    tags: Mapping[str, str],
    task_state: Callable[[str, str, str, int], str | None],
    dagrun_state: Callable[[str, str], str],
    exists: Callable[[str], bool],
) -> bool | None:
    """Whether the process behind an MLflow run still runs, by its tags; None where Airflow cannot tell.

    An attempt is dead when its task has ended or a later try of the task has opened a run of its own.
    """
    dag_id, run_id = tags.get("airflow.dag_id"), tags.get("airflow.run_id")
    if dag_id is None or run_id is None:
        return None
    if "airflow.task_id" not in tags:
        return _state(lambda: dagrun_state(dag_id, run_id)) in ("running", "queued")
    map_index, number = int(tags.get("airflow.map_index", -1)), int(tags.get("airflow.try_number", 1))
    if exists(f"{dag_id}/{run_id}/{tags['airflow.task_id']}/{map_index}/{number + 1}"):
        return False
    state = _state(lambda: task_state(dag_id, run_id, tags["airflow.task_id"], map_index))
    return None if state is None else state not in ENDED


def _state(ask: Callable[[], str | None]) -> str | None:
    """Airflow's answer, or None where it no longer knows the task."""
    try:
        answer = ask()
    except Exception:
        return None
    return None if answer is None else str(getattr(answer, "value", answer))


class TidyOperator(BaseOperator):
    """Remove from the store what killed writers left behind, and let the forms propose what is registered.

    :param older_than: uploads that began longer ago than this belong to nobody who is still alive.
    """

    def __init__(self, *, older_than: timedelta = timedelta(days=1), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.older_than = older_than

    def execute(self, context: Context) -> dict[str, int]:
        from lfm_tasks.artifacts.store import Store
        from lfm_tasks.tracking.tracker import Tracker

        places = connect()
        store = Store.open(places.store)
        registered = Tracker.open(places, store).registry.listed()
        remember(places, "names", [model["name"] for model in registered])
        remember(places, "models", [f"models:/{model['name']}@{alias}" for model in registered for alias in model["aliases"]])
        swept = store.sweep(self.older_than)
        self.log.info("%d abandoned uploads removed; %d registered models are proposed in forms", swept, len(registered))
        return {"swept": swept, "registered": len(registered)}
