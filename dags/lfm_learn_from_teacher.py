"""A student learns from a teacher behind an API: prepare, ask, tune on the answers, evaluate beside the champion, decide, promote."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import (
    AskTeacherOperator,
    FinishRunOperator,
    PrepareAnswersOperator,
    PrepareGeneralOperator,
    PrepareOperator,
    TuneOperator,
)
from lfm_tasks.operators.params import reference_param, step_params, tasks_of
from lfm_tasks.operators.promotion import measure_and_promote, promotion_params

HEAVY = {"pool": "cpu_heavy"}
LOCAL = ("method", "num_beams", "keep", "length_penalty", "choose", "chat", "batch_tokens", "split", "reference_column")
"""Of the step *ask_teacher*, what is for local teachers and for raw rows."""

dag = DAG(
    dag_id="lfm_learn_from_teacher",
    description="Tune a student on what a teacher behind an API answers, and promote it if it is better",
    doc_md=__doc__
    + """
**Steps.** *prepare* splits the rows; *ask* puts the prompts of the training split, and no others, to an OpenAI-compatible API and keeps
each answer as it comes: a retry asks only what has no answer yet, a budget in requests or tokens ends it, and another run that
asks the same pays nothing. *prepare_answers* makes training rows of prompts and answers, *tune* trains the student on them.
*evaluate* measures the student before, the champion and the student after on the right answers of the held-out rows; *gate*, *ask a
person*, *approve* and *promote* are those of `lfm_adapt`.

**Who may be asked** is the administrator's: `LFM_TEACHER_ENDPOINTS` holds the allowed URLs. The key is in an environment variable whose
name ends in `_API_KEY`, or in an Airflow connection of the endpoint's host; the form names it and never holds it.
""",
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args={"owner": "lfm", "retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["lfm", "distillation"],
    params={
        "model": reference_param("models", "starter://smollm2-135m-instruct", "Student", "The decoder that learns."),
        "data": reference_param("data", "starter://bbc-news", "Data", "Rows whose prompts are asked; JSONL, CSV or Parquet."),
        "general": reference_param(
            "data",
            "starter://nyt-editorials",
            "General text",
            "Held-out text on which perplexity shows forgetting; empty for none.",
            optional=True,
        ),
        **step_params("prepare", defaults={"max_train_samples": 500}, skip=["task", "template", "system_prompt", "part_column", "parts"]),
        **step_params("ask_teacher", skip=LOCAL),
        **step_params("tune"),
        **step_params("evaluate"),
        **promotion_params(model_name="taught-topics"),
    },
)

with tasks_of(dag):
    plain = {"task": "instruction", "template": "plain"}
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, config=plain, **HEAVY)
    prepare_general = PrepareGeneralOperator(task_id="prepare_general", references={"data": "{general}", "model": "{model}"}, **HEAVY)
    ask = AskTeacherOperator(
        task_id="ask_teacher", inputs={"data": prepare.output["dataset"]}, config={"method": "black_box", "split": "train"}
    )
    answers = PrepareAnswersOperator(
        task_id="prepare_answers", prefix="prepare", references={"model": "{model}"}, inputs={"data": ask.output["dataset"]}, **HEAVY
    )
    tune = TuneOperator(
        task_id="tune", references={"model": "{model}"}, inputs={"dataset": answers.output["dataset"]}, outlets=[NEW_MODEL], **HEAVY
    )

    held_out = {"dataset": prepare.output["dataset"], "general": prepare_general.output["dataset"]}
    ended = measure_and_promote(tune.output["model"], held_out, **HEAVY)
    finish = FinishRunOperator(task_id="finish")

    ended >> finish.as_teardown()
