"""A sweep: check every candidate before anything runs, and choose among those that ended well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError
from lfm_tasks.form import config_values, override
from lfm_tasks.operators.base import StepOperator, mapped_outputs, of_params
from lfm_tasks.runner.job import Job, JobResult, numbered_inputs
from lfm_tasks.selection.config import SweepConfig, training_tflop
from lfm_tasks.steps import STEPS


class PlanSweepOperator(BaseOperator):
    """The candidates of the Params ``sweep_grid`` or ``sweep_configs``: what each sets, checked as configs of *tune*."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        candidates = of_params(context, plan)
        self.log.info("%d candidates: %s", len(candidates), candidates)
        return candidates


def plan(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Raises :class:`ConfigError` that names every candidate that cannot be tuned, and why."""
    values = {name: params[f"sweep_{name}"] for name in SweepConfig.model_fields if params.get(f"sweep_{name}")}
    candidates = parse_config(SweepConfig, values, where="Params sweep_*").candidates()
    tune, refused = STEPS["tune"], []
    for place, settings in enumerate(candidates, start=1):
        try:
            parse_config(tune.config_class, override(tune, config_values(tune, "tune", params), settings), where=f"{settings}")
        except ConfigError as error:
            refused.append(f"Candidate {place}: {error}")
    if refused:
        raise ConfigError(f"{len(refused)} of {len(candidates)} candidates cannot be tuned; nothing was started. " + " ".join(refused))
    return candidates


class SelectOperator(StepOperator):
    """Choose among mapped *tune* and *evaluate* tasks; hands on ``best``, the chosen model's address.

    :param candidates: what each candidate sets, in the order of the mapping, ``plan.output``.
    :param tune_task: id of the mapped tune task.
    :param evaluate_task: id of the mapped evaluate task; a candidate without its report is shown as failed.
    """

    step = "select"
    template_fields = (*StepOperator.template_fields, "candidates")

    def __init__(self, *, candidates: Any, tune_task: str, evaluate_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.candidates, self.tune_task, self.evaluate_task = candidates, tune_task, evaluate_task

    def job(self, context: Context) -> Job:
        places = range(len(self.candidates))
        tuned = context["ti"].xcom_pull(task_ids=self.tune_task, map_indexes=places)
        reports = mapped_outputs(context, self.evaluate_task, "report", len(places))
        cost = [training_tflop(one["metrics"]) if one else None for one in tuned]
        self.config = {
            "candidates": [{"settings": self.candidates[place], "tflop": cost[place], "failed": not reports[place]} for place in places]
        }
        self.inputs = numbered_inputs({"reports": [report for report in reports if report]})
        return super().job(context)

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        context["ti"].xcom_push(key="best", value=f"sha256:{result.summary['best']['model_sha256']}")
        return super().hand_on(context, job, result)
