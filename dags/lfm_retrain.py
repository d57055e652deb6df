"""Retrain on a schedule or when data changed: the same steps as lfm_adapt, ended early where there is nothing new."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import FinishRunOperator, NoveltyOperator, PrepareGeneralOperator, PrepareOperator, TuneOperator
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.notify import retrain_deadline
from lfm_tasks.operators.params import reference_param, step_params, tasks_of, with_defaults
from lfm_tasks.operators.promotion import measure_and_promote, promotion_params
from lfm_tasks.operators.schedules import retrain_schedule
from lfm_tasks.settings import settings

params = with_defaults(
    {
        "model": reference_param("models", "starter://smollm2-135m-instruct", "Model", "The model to adapt."),
        "data": reference_param(
            "data",
            "starter://bbc-news",
            "Data",
            "Rows to learn from. `{partition}` in it stands for the run's partition key, the name of a snapshot.",
        ),
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
    settings().retrain_params,
)

dag = DAG(
    dag_id="lfm_retrain",
    description="Retrain on a schedule or when data changed, and promote what is better",
    doc_md=__doc__
    + """
**When.** By `LFM_RETRAIN_SCHEDULE` (a cron expression in UTC; the first run is the next one after unpausing), and whenever the
asset *lfm_dataset* changes: a DAG that brings in data says so with `outlets=[DATASET]`, or `[NEW_DATASET]` on its *prepare*.
Such runs have the form's defaults; `LFM_RETRAIN_PARAMS` (a JSON object) sets others. With `{partition}` in the data, runs are
scheduled by partition instead: the key is the day, and it names the snapshot. `airflow backfill create --dag-id lfm_retrain …`
works.

**Nothing new.** Unchanged data, config and code make the model that is in the step cache. If the gate has judged it on this data
set before, and the question that it may have asked was answered, *novelty* says so and the rest is skipped: a success, in
seconds. A model that a person rolled back does not come back in this way.

**Late or failed.** A run that has not ended `LFM_RETRAIN_HOURS` after its queueing is reported, and so is a failure, by mail to
`LFM_NOTIFY_EMAIL`.
""",
    deadline=retrain_deadline(),
    tags=["lfm", "tuning"],
    params=params,
    **common(schedule=retrain_schedule(params["data"].value), max_active_runs=1),
)

with tasks_of(dag):
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, **HEAVY)
    tune = TuneOperator(
        task_id="tune", references={"model": "{model}"}, inputs={"dataset": prepare.output["dataset"]}, outlets=[NEW_MODEL], **HEAVY
    )
    novelty = NoveltyOperator(task_id="novelty", inputs={"model": tune.output["model"], "dataset": prepare.output["dataset"]})

    prepare_general = PrepareGeneralOperator(task_id="prepare_general", references={"data": "{general}", "model": "{model}"}, **HEAVY)
    held_out = {"dataset": prepare.output["dataset"], "general": prepare_general.output["dataset"]}
    ended = measure_and_promote(tune.output["model"], held_out, beside_base=False, **HEAVY)
    finish = FinishRunOperator(task_id="finish")

    novelty >> prepare_general
    ended >> finish.as_teardown()
