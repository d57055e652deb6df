"""Distil a teacher into a smaller student: cut, record, distil, measure beside teacher and labels alone, decide, promote."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import (
    CutStudentOperator,
    DistillOperator,
    EvaluateOperator,
    FinishRunOperator,
    JudgeStudentOperator,
    PrepareGeneralOperator,
    PrepareOperator,
    RecordSignalsOperator,
)
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import reference_param, references_param, step_params, tasks_of
from lfm_tasks.operators.promotion import decide_and_promote, promotion_params

LABELS_ALONE = {
    "alpha": 0.0,
    "method": "forward_kl",
    "options": {},
    "temperature": 1.0,
    "combine": "mean",
    "on_policy": 0.0,
    "on_policy_schedule": "constant",
}
"""The same steps of training without a teacher."""

dag = DAG(
    dag_id="lfm_distill",
    description="Distil a teacher into a smaller student and promote it if it keeps enough, is faster and is better",
    doc_md=__doc__
    + """
**Student.** Any model with the teacher's tokenizer; left empty, one is *cut* from the teacher: some of its layers, narrower ones.

**Steps.** *record* keeps what the teacher says of every target where *Record the teacher* is on, so that further epochs, students and
objectives need no teacher; *distill* trains the student by the objective of the form; *baseline* trains the same student for as many
steps on the labels alone. *evaluate* measures teacher, student before, student after, baseline and champion on the same held-out
samples. *judge* asks how much of the teacher's metric the student has kept, with an interval, and how much faster it is, measured
side by side: where that is not enough, the rest is skipped. *gate* compares the student with the champion, at first the baseline;
*ask*, *approve* and *promote* are those of `lfm_adapt`.

Methods that look inside the teacher, or that let the student write, need the teacher itself: leave *Record the teacher* off.
""",
    tags=["lfm", "distillation"],
    params={
        "teacher": reference_param("models", "starter://smollm2-135m-instruct", "Teacher", "The model to learn from."),
        "more_teachers": references_param("More teachers", "Others to learn from at the same time, asked directly."),
        "student": reference_param("models", None, "Student", "The model that learns; empty to cut one from the teacher."),
        "data": reference_param("data", "starter://bbc-news", "Data", "Rows to learn from: JSONL, CSV or Parquet."),
        "general": reference_param(
            "data",
            "starter://nyt-editorials",
            "General text",
            "Held-out text on which perplexity shows forgetting; empty for none.",
            extra=["starter://nyt-editorials"],
            optional=True,
        ),
        "record": Param(
            False,
            type="boolean",
            title="Record the teacher",
            description="Ask the teacher once and learn from what was kept, instead of asking it at every step.",
            section="What to work on",
        ),
        **step_params("prepare", defaults={"text_column": "text", "label_column": "label"}, skip=["part_column", "parts"]),
        **step_params("cut_student", defaults={"depth": 10}),
        **step_params("record_signals"),
        **step_params("distill"),
        **step_params("evaluate"),
        **step_params("judge_student"),
        **promotion_params(model_name="distilled"),
    },
    **common(),
)

with tasks_of(dag):
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{teacher}"}, **HEAVY)
    prepare_general = PrepareGeneralOperator(task_id="prepare_general", references={"data": "{general}", "model": "{teacher}"}, **HEAVY)
    dataset = {"dataset": prepare.output["dataset"]}
    cut = CutStudentOperator(task_id="cut", unless="student", references={"teacher": "{teacher}"}, outlets=[NEW_MODEL], **HEAVY)
    record = RecordSignalsOperator(task_id="record", when="record", references={"teacher": "{teacher}"}, inputs=dataset, **HEAVY)

    student = {"student": cut.output["model"]}
    learning = {"outlets": [NEW_MODEL], "trigger_rule": "none_failed", **HEAVY}
    distill = DistillOperator(
        task_id="distill",
        references={"teachers.0": "{teacher}", "student": "{student}"},
        also="more_teachers",
        inputs=student | dataset | {"signals.0": record.output["signals"]},
        **learning,
    )
    baseline = DistillOperator(
        task_id="baseline", references={"student": "{student}"}, inputs=student | dataset, config=LABELS_ALONE, **learning
    )

    held_out = {**dataset, "general": prepare_general.output["dataset"]}
    measured = {"prefix": "evaluate", "trigger_rule": "none_failed", **HEAVY}
    evaluate_teacher = EvaluateOperator(task_id="evaluate_teacher", references={"model": "{teacher}"}, inputs=held_out, **measured)
    evaluate_before = EvaluateOperator(
        task_id="evaluate_before", references={"model": "{student}"}, inputs={"model": cut.output["model"], **held_out}, **measured
    )
    evaluate_student = EvaluateOperator(task_id="evaluate_student", inputs={"model": distill.output["model"], **held_out}, **measured)
    evaluate_baseline = EvaluateOperator(task_id="evaluate_baseline", inputs={"model": baseline.output["model"], **held_out}, **measured)
    evaluate_champion = EvaluateOperator(
        task_id="evaluate_champion",
        references={"model": "models:/{promote_model_name}@{promote_alias}"},
        inputs={"model": baseline.output["model"], **held_out},
        **measured,
    )
    judge = JudgeStudentOperator(
        task_id="judge",
        references={"teacher": "{teacher}"},
        inputs={
            "student": distill.output["model"],
            **dataset,
            "teacher_report": evaluate_teacher.output["report"],
            "student_report": evaluate_student.output["report"],
            "before_report": evaluate_before.output["report"],
            "baseline_report": evaluate_baseline.output["report"],
        },
        **HEAVY,
    )
    promote = decide_and_promote(evaluate_student.output["report"], evaluate_champion.output["report"], distill.output["model"])
    finish = FinishRunOperator(task_id="finish")

    evaluate_baseline >> evaluate_champion
    judge >> dag.get_task("gate")
    promote >> finish.as_teardown()
