"""Five tasks one after the other that do nothing."""

from __future__ import annotations

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, chain


def nothing() -> None:
    pass


with DAG(dag_id="nothing", schedule=None) as dag:
    chain(*(PythonOperator(task_id=f"t{number}", python_callable=nothing) for number in range(5)))
