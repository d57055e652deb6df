"""Roll back: move an alias to a version that the ledger knows. By default it only says what would move."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from lfm_tasks.operators import FinishRunOperator, RollbackOperator
from lfm_tasks.operators.notify import failure_notifiers
from lfm_tasks.operators.params import step_params

with DAG(
    dag_id="lfm_rollback",
    description="Move an alias back to an earlier version",
    doc_md=__doc__
    + """
The move is a new entry of the ledger, with who and why; its evidence is the entry that it returns to. Nothing is lost: to undo a
rollback, roll back to the version before it. `lfm ledger NAME` lists all moves.
""",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    on_failure_callback=failure_notifiers(),
    default_args={"owner": "lfm", "retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["lfm", "promotion"],
    params=step_params("rollback"),
) as dag:
    RollbackOperator(task_id="rollback") >> FinishRunOperator(task_id="finish").as_teardown()
