"""Adapt a model to a data set: prepare, tune, evaluate beside the champion, decide, promote."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from lfm_tasks.operators import EvaluateOperator, FinishRunOperator, GateOperator, PrepareOperator, PromoteOperator, TuneOperator
from lfm_tasks.operators.params import step_params

HEAVY = {"pool": "cpu_heavy"}
REFERENCE = "`starter://NAME`, `hf://ORG/NAME`, `models:/NAME@ALIAS`, `sha256:…`, or `file://…` / `s3://…` below an allowed prefix."


def reference(default: str, title: str, description: str, examples: list[str], kind: str | list[str] = "string") -> Param:
    return Param(
        default,
        type=kind,
        maxLength=1024,
        title=title,
        description=f"{description} {REFERENCE}",
        examples=examples,
        section="What to adapt",
    )


with DAG(
    dag_id="lfm_adapt",
    description="Adapt a model to a data set and promote it if it is better",
    doc_md=__doc__
    + """
**Steps.** *prepare* splits and tokenises the rows; *tune* trains; *evaluate* measures the base model, the champion and the
challenger on the same held-out samples, with perplexity on general text so that forgetting is seen; *gate* compares
challenger and champion; *promote* registers the challenger and moves the alias when the gate says so.

Every unchanged step is answered from the step cache and says so. Results are in MLflow; `lfm lineage` draws the graph.
""",
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args={"owner": "lfm", "retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["lfm", "tuning"],
    params={
        "model": reference(
            "starter://smollm2-135m-instruct",
            "Model",
            "The model to adapt.",
            ["starter://smollm2-135m-instruct", "starter://minilm-l6"],
        ),
        "data": reference(
            "starter://bbc-news",
            "Data",
            "Rows to learn from: JSONL, CSV or Parquet.",
            ["starter://bbc-news", "starter://movie-reviews", "starter://tweets", "starter://sarcasm"],
        ),
        "general": reference(
            "starter://nyt-editorials",
            "General text",
            "Held-out text on which perplexity shows forgetting; empty for none.",
            ["starter://nyt-editorials", ""],
            ["null", "string"],
        ),
        **step_params(
            "prepare",
            defaults={"text_column": "text", "label_column": "label"},
        ),
        **step_params("tune"),
        **step_params("evaluate"),
        **step_params("gate"),
        **step_params("promote", defaults={"model_name": "bbc-topics"}),
    },
) as dag:
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, **HEAVY)
    prepare_general = PrepareOperator(
        task_id="prepare_general",
        references={"data": "{general}", "model": "{model}"},
        prefix="general",
        config={"task": "text", "validation_fraction": 0.0, "test_fraction": 1.0, "max_length": 256},
        **HEAVY,
    )
    tune = TuneOperator(task_id="tune", references={"model": "{model}"}, inputs={"dataset": prepare.output["dataset"]}, **HEAVY)

    held_out = {"dataset": prepare.output["dataset"], "general": prepare_general.output["dataset"]}
    measured = {"prefix": "evaluate", "trigger_rule": "none_failed", **HEAVY}
    evaluate_base = EvaluateOperator(task_id="evaluate_base", references={"model": "{model}"}, inputs=held_out, **measured)
    evaluate_champion = EvaluateOperator(
        task_id="evaluate_champion",
        references={"model": ["models:/{promote_model_name}@{promote_alias}", "{model}"]},
        inputs=held_out,
        **measured,
    )
    evaluate_challenger = EvaluateOperator(task_id="evaluate_challenger", inputs={"model": tune.output["model"], **held_out}, **measured)
    gate = GateOperator(
        task_id="gate",
        inputs={"challenger": evaluate_challenger.output["report"], "champion": evaluate_champion.output["report"]},
    )
    promote = PromoteOperator(task_id="promote", inputs={"model": tune.output["model"], "decision": gate.output["decision"]})
    finish = FinishRunOperator(task_id="finish")

    evaluate_base >> evaluate_champion
    [evaluate_base, promote] >> finish.as_teardown()
