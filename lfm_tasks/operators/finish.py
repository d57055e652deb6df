"""Close the MLflow parent run of a DAG run, as a teardown."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator, Context

from lfm_tasks.settings import settings

FAILED = {"failed", "upstream_failed"}


class FinishRunOperator(BaseOperator):
    """Set the parent run to FINISHED or FAILED by the states of this DAG run's other tasks."""

    def execute(self, context: Context) -> dict[str, Any]:
        from lfm_tasks.tracking.rest import finish_parent

        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        status = "FAILED" if FAILED & {str(state) for state in states.values()} else "FINISHED"
        run_id = finish_parent(settings().tracking_uri, settings().project, f"{ti.dag_id}/{ti.run_id}", status)
        return {"run_id": run_id, "status": status}
