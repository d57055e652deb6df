"""Five steps one after the other, all of them answered from the step cache once they were done."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from lfm_tasks.operators import EvaluateOperator, GateOperator, PrepareOperator, TuneOperator
from lfm_tasks.operators.params import step_params

with DAG(
    dag_id="cached",
    schedule=None,
    params={
        "model": Param("", type="string"),
        "data": Param("", type="string"),
        **step_params("prepare"),
        **step_params("tune"),
        **step_params("evaluate"),
        **step_params("gate"),
    },
) as dag:
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"})
    tune = TuneOperator(task_id="tune", references={"model": "{model}"}, inputs={"dataset": prepare.output["dataset"]})
    held_out = {"dataset": prepare.output["dataset"]}
    champion = EvaluateOperator(task_id="champion", prefix="evaluate", references={"model": "{model}"}, inputs=held_out)
    challenger = EvaluateOperator(task_id="challenger", prefix="evaluate", inputs={"model": tune.output["model"], **held_out})
    gate = GateOperator(task_id="gate", inputs={"challenger": challenger.output["report"], "champion": champion.output["report"]})
    chain(prepare, tune, champion, challenger, gate)
