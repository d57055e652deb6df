"""Roll back: move an alias to a version that the ledger knows. By default it only says what would move."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from lfm_tasks.names import NAME_PATTERN
from lfm_tasks.operators import FinishRunOperator, RollbackOperator
from lfm_tasks.operators.dags import common
from lfm_tasks.operators.params import step_params, tasks_of
from lfm_tasks.proposals import proposals
from lfm_tasks.settings import settings

dag = DAG(
    dag_id="lfm_rollback",
    description="Move an alias back to an earlier version",
    doc_md=__doc__
    + """
The move is a new entry of the ledger, with who and why; its evidence is the entry that it returns to. Nothing is lost: to undo a
rollback, roll back to the version before it. `lfm ledger NAME` lists all moves.
""",
    tags=["lfm", "promotion"],
    params={
        "model_name": Param(
            "lfm-model",
            type="string",
            pattern=NAME_PATTERN,
            title="Registered model",
            description="The registered model whose alias moves.",
            examples=proposals(settings(), "names"),
            section="What to roll back",
        ),
        "version": Param(
            1,
            type="integer",
            minimum=1,
            maximum=999_999_999,
            title="Version",
            description="The version to go back to: any that the ledger knows (`lfm ledger NAME` lists them).",
            section="What to roll back",
        ),
        **step_params("rollback"),
    },
    **common(max_active_runs=1),
)

with tasks_of(dag):
    rollback = RollbackOperator(task_id="rollback", references={"model": "models:/{model_name}/{version}"})
    rollback >> FinishRunOperator(task_id="finish").as_teardown()
