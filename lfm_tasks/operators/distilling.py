"""Operators of distillation: students, teachers and what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfm_tasks.operators.base import StepOperator
from lfm_tasks.operators.steps import DecidingOperator
from lfm_tasks.registry import Step


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


class DistillDataFreeOperator(StepOperator):
    """A student learns from a teacher's answers to images that were made for it; no data is looked at."""

    step = "distill_data_free"
