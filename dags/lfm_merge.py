"""Merge models by one method or several, and measure every source and result on every source's task."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import (
    CompareOperator,
    EvaluateOperator,
    FinishRunOperator,
    GateOperator,
    MergeOperator,
    MixOperator,
    PlanEvaluationsOperator,
    PlanGatesOperator,
    PlanMergeOperator,
    PlanMergesOperator,
    PlanMixturesOperator,
    PlanStatisticsOperator,
    PrepareOperator,
    StatisticsOperator,
)
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import methods_param, sources_params, step_params, tasks_of

dag = DAG(
    dag_id="lfm_merge",
    description="Merge models and measure all of them on all of their tasks",
    doc_md=__doc__
    + """
Give two or more models, a data set for each in the same order, and the base that they were made from. Classifiers of different
classes on one bare base are merged below their heads; on each task everybody is then measured with the head of that task's own model.
Leave the fields of *prepare* as they were when the models were tuned, so that the held-out rows are rows that no model has learnt.

*compare* makes one table: the metric by task with intervals, its share of each task's own model, CPU seconds and memory of the
merges. Give *other methods* to have several in it; one that fails does not stop the others. *gate* is asked once for each task about
the form's method, against the champion of the form, or the base: one verdict over all tasks would let a gain on a big task hide a
loss on a small one.
""",
    tags=["lfm", "reuse"],
    params={
        **sources_params("result"),
        **step_params("prepare", defaults={"task": "classification", "text_column": "text", "label_column": "label"}),
        **step_params("merge", defaults={"method": "task_arithmetic"}),
        "also": methods_param(
            "merge",
            "Other methods",
            "Methods to compare with, each with its defaults. They are in the table; the gate judges the one above.",
        ),
        "mixtures": methods_param(
            "mix", "Mixtures", "Models whose experts stay beside the base, each with its defaults, to compare with. They need the base."
        ),
        **step_params("statistics", skip=["method"]),
        **step_params("evaluate"),
        **step_params("compare", skip=["subjects", "cells"]),
        **step_params("gate"),
    },
    **common(),
)

with tasks_of(dag):
    plan = PlanMergeOperator(task_id="plan")
    prepare = PrepareOperator.partial(task_id="prepare", **HEAVY).expand(inputs=plan.output)
    gathers = PlanStatisticsOperator(task_id="gathers", prepare_task="prepare")
    statistics = StatisticsOperator.partial(task_id="statistics", **HEAVY).expand_kwargs(gathers.output)
    merges = PlanMergesOperator(task_id="merges", prepare_task="prepare", statistics_task="statistics", trigger_rule="none_failed")
    merge = MergeOperator.partial(task_id="merge", references={"base": "{base}"}, outlets=[NEW_MODEL], **HEAVY).expand_kwargs(merges.output)
    mixtures = PlanMixturesOperator(task_id="mixtures", prepare_task="prepare")
    mix = MixOperator.partial(task_id="mix", references={"base": "{base}"}, outlets=[NEW_MODEL], **HEAVY).expand_kwargs(mixtures.output)
    evaluations = PlanEvaluationsOperator(
        task_id="evaluations", prepare_task="prepare", merge_task="merge", mix_task="mix", trigger_rule="all_done"
    )
    evaluate = EvaluateOperator.partial(task_id="evaluate", **HEAVY).expand(inputs=evaluations.output)
    compare = CompareOperator(
        task_id="compare", cells=evaluations.output["cells"], subjects=evaluations.output["subjects"], evaluate_task="evaluate"
    )
    gates = PlanGatesOperator(
        task_id="gates", cells=evaluations.output["cells"], judged=evaluations.output["judged"], evaluate_task="evaluate"
    )
    gate = GateOperator.partial(task_id="gate").expand(inputs=gates.output)
    finish = FinishRunOperator(task_id="finish")

    prepare >> [gathers, mixtures]
    [prepare, statistics] >> merges
    [prepare, merge, mix] >> evaluations
    evaluate >> [compare, gates]
    [compare, gate] >> finish.as_teardown()
