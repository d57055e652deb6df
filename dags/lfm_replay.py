"""Replay: rebuild a model from its records, on the inputs that they name, and compare step by step."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from lfm_tasks.operators.audit import ReplayOperator
from lfm_tasks.operators.dags import common
from lfm_tasks.operators.finish import FinishRunOperator
from lfm_tasks.operators.params import step_params, tasks_of

dag = DAG(
    dag_id="lfm_replay",
    description="Rebuild a model from its records and compare",
    doc_md=__doc__
    + """
The report says for each step: identical bytes; within the tolerance, and how far off; or diverged, and why (code, environment,
inputs). Nothing is registered, no alias moves, and MLflow gets one run: that of the replay.
""",
    tags=["lfm", "audit"],
    params={
        "artifact": Param(
            "models:/lfm-model@champion",
            type="string",
            maxLength=1024,
            title="Artifact",
            description="What to rebuild: `models:/NAME@ALIAS`, `models:/NAME/3` or `sha256:…`.",
            section="What to rebuild",
        ),
        **step_params("replay"),
    },
    **common(retries=1),
)

with tasks_of(dag):
    replay = ReplayOperator(task_id="replay", references={"artifact": "{artifact}"}, pool="cpu_heavy")
    replay >> FinishRunOperator(task_id="finish").as_teardown()
