"""Search the options of merges on validation rows, one search for each method, and measure every winner on every source's task."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.form import config_fields
from lfm_tasks.operators import (
    CompareOperator,
    EvaluateOperator,
    FinishRunOperator,
    GateOperator,
    PlanGatesOperator,
    PlanSearchesOperator,
    PlanSearchEvaluationsOperator,
    PlanSearchOperator,
    PrepareOperator,
    SearchMergeOperator,
)
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import airflow_params, methods_param, sources_params, step_params, tasks_of
from lfm_tasks.steps import STEPS

SEARCH = STEPS["search_merge"]

dag = DAG(
    dag_id="lfm_merge_search",
    description="Search the options of merges on validation and measure the winners on test",
    doc_md=__doc__
    + """
Give two or more models, a data set for each in the same order, and the base that they were made from, as to `lfm_merge`. Leave the
fields of *prepare* as they were when the models were tuned, so that the held-out rows are rows that no model has learnt.

Each of *methods* is a search of its own, with the same strategy, budget and seed; searches run side by side as far as the pool
*cpu_heavy* lets them. Of the options in *search* a method varies those that it has: `{"scale": [0.3, 1.0], "density": [0.1, 0.2]}` are
two candidates of task arithmetic and four of TIES. A search reads the models once and makes its candidates in memory; they must fit
into it. One that cannot be searched as the form says stops all before anything runs; one that fails does not stop the others.

Candidates and winners are chosen by the **validation** rows alone. Each winner is a model of its own and is measured on **test**, once;
*compare* makes one table of base, experts and winners. *gate* is asked once for each task about the winner that is best on validation,
against the champion of the form, or the base.
""",
    tags=["lfm", "reuse"],
    params={
        **sources_params("best"),
        "methods": methods_param(SEARCH.name, "Methods", "Methods to search, one search for each.", ["task_arithmetic", "ties"]),
        **airflow_params(config_fields(SEARCH.config_class, SEARCH.name, SEARCH.title, skip=["method", "options"])),
        **step_params("prepare", defaults={"task": "classification", "text_column": "text", "label_column": "label"}),
        **step_params("evaluate", skip=["split"]),
        **step_params("compare", skip=["subjects", "cells"]),
        **step_params("gate"),
    },
    **common(),
)

with tasks_of(dag):
    plan = PlanSearchOperator(task_id="plan")
    prepare = PrepareOperator.partial(task_id="prepare", **HEAVY).expand(inputs=plan.output)
    searches = PlanSearchesOperator(task_id="searches", prepare_task="prepare")
    search = SearchMergeOperator.partial(task_id="search", references={"base": "{base}"}, outlets=[NEW_MODEL], **HEAVY).expand_kwargs(
        searches.output
    )
    evaluations = PlanSearchEvaluationsOperator(
        task_id="evaluations", prepare_task="prepare", search_task="search", trigger_rule="all_done_min_one_success"
    )
    evaluate = EvaluateOperator.partial(task_id="evaluate", config={"split": "test"}, **HEAVY).expand(inputs=evaluations.output)
    compare = CompareOperator(
        task_id="compare", cells=evaluations.output["cells"], subjects=evaluations.output["subjects"], evaluate_task="evaluate"
    )
    gates = PlanGatesOperator(
        task_id="gates", cells=evaluations.output["cells"], judged=evaluations.output["judged"], evaluate_task="evaluate"
    )
    gate = GateOperator.partial(task_id="gate").expand(inputs=gates.output)
    finish = FinishRunOperator(task_id="finish")

    prepare >> searches
    search >> evaluations
    evaluate >> [compare, gates]
    [compare, gate] >> finish.as_teardown()
