"""Distill an image classifier into another one without any data; measure both where a labelled test set is given."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import DistillDataFreeOperator, EvaluateOperator, FinishRunOperator, PrepareImagesOperator
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import reference_param, step_params, tasks_of

dag = DAG(
    dag_id="lfm_distill_data_free",
    description="Distill an image classifier without data",
    doc_md=__doc__
    + """
*distill* makes images by the method of the form, asks the teacher about them and lets the student learn its answers. Which of the
student's states is handed on is decided by its agreement with the teacher on synthetic images that were kept apart: no data set is
opened, and opening one fails the step. Its report says what was chosen by what, and what it cost in teacher queries and CPU seconds.

With *test data* the teacher, the student before and the student after are evaluated on its test split, in steps of their own that
change nothing about the choice. Without, these are skipped.
""",
    tags=["lfm", "distillation"],
    params={
        "teacher": reference_param("models", None, "Teacher", "The image classifier to learn from."),
        "student": reference_param("models", None, "Student", "The image classifier of the same classes that learns."),
        "data": reference_param(
            "data",
            None,
            "Test data",
            "Labelled images on which teacher and student are measured; empty for none.",
            extra=["starter://fashion-mnist"],
            optional=True,
        ),
        **step_params("distill_data_free"),
        **step_params("prepare_images"),
        **step_params("evaluate"),
    },
    **common(),
)

with tasks_of(dag):
    distill = DistillDataFreeOperator(
        task_id="distill", references={"teacher": "{teacher}", "student": "{student}"}, outlets=[NEW_MODEL], **HEAVY
    )
    prepare = PrepareImagesOperator(task_id="prepare", references={"data": "{data}"}, **HEAVY)
    held_out, measured = {"dataset": prepare.output["dataset"]}, {"prefix": "evaluate", **HEAVY}
    evaluations = [
        EvaluateOperator(task_id=f"evaluate_{name}", references={"model": f"{{{param}}}"}, inputs=held_out, **measured)
        for name, param in (("teacher", "teacher"), ("before", "student"))
    ]
    after = EvaluateOperator(task_id="evaluate_student", inputs={"model": distill.output["model"], **held_out}, **measured)
    finish = FinishRunOperator(task_id="finish")

    [*evaluations, after] >> finish.as_teardown()
    distill >> finish
