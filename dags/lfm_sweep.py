"""Try many configs of a tuning, choose the best on validation, measure it once on test."""

from __future__ import annotations

from airflow.sdk import DAG, task_group

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.form import config_fields
from lfm_tasks.operators import (
    EvaluateOperator,
    FinishRunOperator,
    PlanSweepOperator,
    PrepareOperator,
    SelectOperator,
    TuneOperator,
)
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import airflow_params, reference_param, step_params, tasks_of
from lfm_tasks.selection.config import SweepConfig

GRID = {"rank": [4, 16], "learning_rate": [1e-4, 3e-4]}

sweep = config_fields(SweepConfig, "sweep", "Sweep")
sweep["sweep_grid"]["default"] = GRID

dag = DAG(
    dag_id="lfm_sweep",
    description="Try many configs of a tuning and choose the best on validation",
    doc_md=__doc__
    + """
Every candidate is checked before anything runs; one that cannot be tuned stops the sweep with what is allowed. Candidates run
side by side as far as the pool *cpu_heavy* lets them. One that fails (a learning rate that diverges) does not stop the others.

*select* makes one table with intervals, draws the Pareto front of metric and compute (counted operations, not seconds, so that
equal sweeps give equal answers), and names the best by the **validation** split. Only that one is measured on **test**, once:
its figure is then not the luckiest of many. To promote it, give its address (the task *select*, key `best`) to `lfm_promote`.
""",
    tags=["lfm", "tuning"],
    params={
        "model": reference_param("models", "starter://smollm2-135m-instruct", "Model", "The model to adapt."),
        "data": reference_param("data", "starter://bbc-news", "Data", "Rows to learn from: JSONL, CSV or Parquet."),
        **airflow_params(sweep),
        **step_params("select", skip=["candidates"]),
        **step_params("prepare", defaults={"text_column": "text", "label_column": "label"}),
        **step_params("tune"),
        **step_params("evaluate", skip=["split"]),
    },
    **common(),
)

with tasks_of(dag):
    plan = PlanSweepOperator(task_id="plan")
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, **HEAVY)

    @task_group(group_id="candidate")
    def candidate(config):
        tune = TuneOperator(
            task_id="tune",
            config=config,
            references={"model": "{model}"},
            inputs={"dataset": prepare.output["dataset"]},
            outlets=[NEW_MODEL],
            **HEAVY,
        )
        EvaluateOperator(
            task_id="evaluate",
            config={"split": "validation"},
            inputs={"model": tune.output["model"], "dataset": prepare.output["dataset"]},
            **HEAVY,
        )

    candidates = candidate.expand(config=plan.output)
    select = SelectOperator(
        task_id="select",
        candidates=plan.output,
        tune_task="candidate.tune",
        evaluate_task="candidate.evaluate",
        trigger_rule="all_done_min_one_success",
    )
    evaluate_best = EvaluateOperator(
        task_id="evaluate_best",
        config={"split": "test"},
        inputs={"model": select.output["best"], "dataset": prepare.output["dataset"]},
        **HEAVY,
    )
    finish = FinishRunOperator(task_id="finish")

    plan >> prepare >> candidates >> select
    evaluate_best >> finish.as_teardown()
