"""Housekeeping: close MLflow runs whose process is gone, remove abandoned uploads."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG

from lfm_tasks.operators import ReapOperator, TidyOperator
from lfm_tasks.operators.dags import common

with DAG(
    dag_id="lfm_maintain",
    description="Close MLflow runs whose process is gone, and remove abandoned uploads",
    doc_md=__doc__
    + """
*reap* asks Airflow for the state of each run's task first; a run of a living task is left alone. *tidy* removes uploads that
began more than a day ago and never ended, and lets the forms propose what is registered.
""",
    start_date=datetime(2026, 1, 1),
    is_paused_upon_creation=False,
    tags=["lfm", "maintenance"],
    **common(
        schedule=timedelta(minutes=15),
        max_active_runs=1,
        retries=1,
        retry_delay=timedelta(minutes=1),
        on_failure_callback=None,  # it would be the same mail every 15 minutes
    ),
) as dag:
    ReapOperator(task_id="reap")
    TidyOperator(task_id="tidy")
