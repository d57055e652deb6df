"""Garbage collection: say what nothing in use was made from; delete only what the form names."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG

from lfm_tasks.operators.audit import CollectOperator
from lfm_tasks.operators.dags import common
from lfm_tasks.operators.finish import FinishRunOperator
from lfm_tasks.operators.params import step_params, tasks_of

dag = DAG(
    dag_id="lfm_collect",
    description="List artifacts that nothing in use was made from, and delete those that are named",
    doc_md=__doc__
    + """
Kept is what an alias names, what the ledger ever named, the evidence for it, everything that those were made from, and what was
made or used lately. Each week's run lists the rest, with sizes, in its MLflow run. To delete, trigger it with addresses from that
list: an address that is kept is refused, and then nothing is deleted. Records stay.
""",
    start_date=datetime(2026, 1, 1),
    tags=["lfm", "maintenance"],
    params=step_params("collect"),
    **common(schedule="0 5 * * 0", max_active_runs=1, retries=1, retry_delay=timedelta(minutes=5)),
)

with tasks_of(dag):
    collect = CollectOperator(task_id="collect")
    collect >> FinishRunOperator(task_id="finish").as_teardown()
