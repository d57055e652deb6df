"""Operators of distillation: students, teachers and what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context

from lfm_tasks.operators.base import StepOperator
from lfm_tasks.operators.connections import teacher_key
from lfm_tasks.operators.steps import DecidingOperator, PrepareOperator
from lfm_tasks.registry import Step
from lfm_tasks.rows.templates import columns_of
from lfm_tasks.runner.job import Job


class CutStudentOperator(StepOperator):
    """A smaller model from a teacher's layers and units."""

    step = "cut_student"


class RecordSignalsOperator(StepOperator):
    """What a teacher says of a data set, once for all epochs and students."""

    step = "record_signals"


class DistillOperator(StepOperator):
    """A student learns from teachers, or from what was recorded of one.

    :param also: Param that lists more teachers.

    Where signals are handed on to it, the reference ``teachers.0``, of whom they are, is not opened.
    """

    step = "distill"

    def __init__(self, *, also: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.also = also

    def _references(self, step: Step, params: Mapping[str, Any], partition: str | None) -> dict[str, str | list[str]]:
        found = super()._references(step, params, partition)
        teachers = [found.pop("teachers.0")] if "teachers.0" in found else []
        teachers = [] if "signals.0" in found else teachers
        teachers += list(params[self.also] or []) if self.also else []
        return found | {f"teachers.{place}": one for place, one in enumerate(teachers)}


class JudgeStudentOperator(DecidingOperator):
    """Go on only if the student has kept enough of its teacher and is fast enough."""

    step = "judge_student"
    goes_on_if = "passed"


class AskTeacherOperator(StepOperator):
    """Prompts to rows with a teacher's answers: of an API, or of a local model.

    The key of an API comes from the environment variable or the Airflow connection that the config names, and goes to the
    step's process by its environment alone.
    """

    step = "ask_teacher"

    def environment(self, job: Job) -> dict[str, str]:
        options = job.config["options"]
        name = options.get("key_connection")
        return super().environment(job) | (teacher_key(name, options["endpoint"]) if name else {})


class PrepareAnswersOperator(PrepareOperator):
    """A teacher's answers as training rows: the prompts are those that were prepared, and the form's completion template with the
    teacher's answer in the place of its column joins the two."""

    def fixed(self, context: Context) -> Mapping[str, Any]:
        template = context["params"][f"{self.prefix}_completion_template"]
        columns = columns_of(template)
        joined = template.replace(f"{{{columns[0]}}}", "{completion}") if len(columns) == 1 else "{completion}"
        return {
            "task": "instruction",
            "template": "plain",
            "prompt_template": "{prompt}",
            "completion_template": joined,
            "label_choices": False,
            "split_by": "hash",
            "test_fraction": 0.0,
            "max_train_samples": None,
        }


class WriteRationalesOperator(StepOperator):
    """A teacher's answers with reasons to rows that a student learns from."""

    step = "write_rationales"


class DistillDataFreeOperator(StepOperator):
    """A student learns from a teacher's answers to images that were made for it; no data is looked at."""

    step = "distill_data_free"
