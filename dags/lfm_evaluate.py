"""Evaluate every model that any DAG produces, on the data set that it was made with."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import MODEL
from lfm_tasks.operators import EvaluateOperator, FindModelsOperator, FinishRunOperator, PrepareOperator
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import reference_param, step_params, tasks_of

dag = DAG(
    dag_id="lfm_evaluate",
    description="Evaluate every model that any DAG produces",
    doc_md=__doc__
    + """
Started by the asset *lfm_model*: each event that has come since the last run is one evaluation here, on the held-out split of the
data set that the model's own record names. An adapter whose merged model was made beside it is evaluated as that.

From the form it evaluates one model on data of your choice.
""",
    is_paused_upon_creation=True,
    tags=["lfm", "evaluation"],
    params={
        "model": reference_param("models", None, "Model", "The model to evaluate; empty where events name the models."),
        "data": reference_param("data", None, "Data", "Rows to evaluate it on; their held-out split is used."),
        **step_params("prepare", defaults={"text_column": "text", "label_column": "label"}),
        **step_params("evaluate"),
    },
    **common(schedule=[MODEL], max_active_runs=1),
)

with tasks_of(dag):
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, **HEAVY)
    models = FindModelsOperator(task_id="models", dataset=prepare.output["dataset"], trigger_rule="none_failed")
    evaluate = EvaluateOperator.partial(task_id="evaluate", **HEAVY).expand(inputs=models.output)
    finish = FinishRunOperator(task_id="finish")

    evaluate >> finish.as_teardown()
