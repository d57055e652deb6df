"""Adapt a model to a data set: prepare, tune, evaluate beside the champion, decide, promote."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import FinishRunOperator, PrepareGeneralOperator, PrepareOperator, TuneOperator
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import reference_param, step_params, tasks_of
from lfm_tasks.operators.promotion import measure_and_promote, promotion_params

dag = DAG(
    dag_id="lfm_adapt",
    description="Adapt a model to a data set and promote it if it is better",
    doc_md=__doc__
    + """
**Steps.** *prepare* splits and tokenises the rows; *tune* trains; *evaluate* measures the base model, the champion and the
challenger on the same held-out samples, with perplexity on general text so that forgetting is seen; *gate* compares
challenger and champion; where the gate or the Param *approval* wants a person's answer, *ask* waits for it in **Required
Actions** and *approve* puts it on record; *promote* registers the challenger and moves the alias.

Every unchanged step is answered from the step cache and says so. Results are in MLflow; `lfm lineage` draws the graph.
""",
    tags=["lfm", "tuning"],
    params={
        "model": reference_param("models", "starter://smollm2-135m-instruct", "Model", "The model to adapt."),
        "data": reference_param("data", "starter://bbc-news", "Data", "Rows to learn from: JSONL, CSV or Parquet."),
        "general": reference_param(
            "data",
            "starter://nyt-editorials",
            "General text",
            "Held-out text on which perplexity shows forgetting; empty for none.",
            extra=["starter://nyt-editorials"],
            optional=True,
        ),
        **step_params("prepare", defaults={"text_column": "text", "label_column": "label"}),
        **step_params("tune"),
        **step_params("evaluate"),
        **promotion_params(model_name="bbc-topics"),
    },
    **common(),
)

with tasks_of(dag):
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, **HEAVY)
    prepare_general = PrepareGeneralOperator(task_id="prepare_general", references={"data": "{general}", "model": "{model}"}, **HEAVY)
    tune = TuneOperator(
        task_id="tune", references={"model": "{model}"}, inputs={"dataset": prepare.output["dataset"]}, outlets=[NEW_MODEL], **HEAVY
    )

    held_out = {"dataset": prepare.output["dataset"], "general": prepare_general.output["dataset"]}
    ended = measure_and_promote(tune.output["model"], held_out, **HEAVY)
    finish = FinishRunOperator(task_id="finish")

    ended >> finish.as_teardown()
