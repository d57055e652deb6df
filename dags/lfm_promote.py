"""Promote a model that exists: evaluate it beside the champion, decide, ask, move the alias."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.operators import EvaluateOperator, FinishRunOperator, PrepareGeneralOperator, PrepareOperator
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import reference_param, step_params, tasks_of
from lfm_tasks.operators.promotion import decide_and_promote, promotion_params

dag = DAG(
    dag_id="lfm_promote",
    description="Promote a model that exists, if it is better than the champion",
    doc_md=__doc__
    + """
Model and champion are measured on the same held-out samples of the data; the gate compares them; a person is asked where the gate
or the Param *approval* wants it. Before the alias moves, the step *promote* checks again that the decision and the answer are
about each other and about this model, and that the champion is still the one that the gate compared with.
""",
    tags=["lfm", "promotion"],
    params={
        "model": reference_param(
            "models", "starter://smollm2-135m-instruct", "Model", "The model to promote, for instance what a sweep chose."
        ),
        "data": reference_param("data", "starter://bbc-news", "Data", "Rows; the models are compared on their held-out split."),
        "general": reference_param(
            "data", None, "General text", "Held-out text on which perplexity shows forgetting.", extra=["starter://nyt-editorials"]
        ),
        "baseline": reference_param(
            "models", None, "Baseline", "What the model is compared with while the alias names nothing, for instance its base model."
        ),
        **step_params("prepare", defaults={"text_column": "text", "label_column": "label"}),
        **step_params("evaluate"),
        **promotion_params(),
    },
    **common(max_active_runs=1),
)

with tasks_of(dag):
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, **HEAVY)
    prepare_general = PrepareGeneralOperator(task_id="prepare_general", references={"data": "{general}", "model": "{model}"}, **HEAVY)
    held_out = {"dataset": prepare.output["dataset"], "general": prepare_general.output["dataset"]}
    measured = {"prefix": "evaluate", "inputs": held_out, "trigger_rule": "none_failed", **HEAVY}
    champion = EvaluateOperator(
        task_id="evaluate_champion", references={"model": ["models:/{promote_model_name}@{promote_alias}", "{baseline}"]}, **measured
    )
    challenger = EvaluateOperator(task_id="evaluate_challenger", references={"model": "{model}"}, **measured)
    promote = decide_and_promote(challenger.output["report"], champion.output["report"], references={"model": "{model}"})
    finish = FinishRunOperator(task_id="finish")

    promote >> finish.as_teardown()
