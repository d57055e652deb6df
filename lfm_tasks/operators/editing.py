"""Editing through Airflow: key moments in shards, and the layer that takes edits best, found on facts that are not edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError
from lfm_tasks.form import config_values, override
from lfm_tasks.operators.base import StepOperator, check_params, mapped_outputs
from lfm_tasks.operators.steps import KEY_MOMENTS, EvaluateEditsOperator
from lfm_tasks.runner.job import Job, JobResult, numbered_inputs
from lfm_tasks.steps import STEPS

GIVEN, FIND = "given", "find"
SHARDS, TASKS = "statistics_shards", "sweep_edit_layers_shards"
LAYERS = ("layer", "layers")


def layers_param() -> Param:
    """Whether the layers to edit are those of the form, or are looked for."""
    return Param(
        GIVEN,
        enum=[GIVEN, FIND],
        values_display={GIVEN: "Those named below, or the method's own", FIND: "Find for me"},
        title="Layers",
        description="Find for me: candidate layers are tried on known facts that are not to be edited, and the best one is edited.",
        section="What to work on",
    )


class PlanShardsOperator(BaseOperator):
    """The shards of *statistics* (Param ``statistics_shards``); none for a method that needs no key moments."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        params = context["params"]
        needed = METHODS[params["edit_method"]].needs == KEY_MOMENTS
        return [{"shard": place} for place in range(params[SHARDS])] if needed else []


class AddStatisticsOperator(StepOperator):
    """The sums of all shards; a single one is handed on as it is.

    :param statistics_task: id of the mapped statistics task.
    """

    step = "add_statistics"

    def __init__(self, *, statistics_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.statistics_task = statistics_task

    def execute(self, context: Context) -> dict[str, Any]:
        parts = [one for one in mapped_outputs(context, self.statistics_task, "statistics", context["params"][SHARDS]) if one]
        if len(parts) == 1:
            context["ti"].xcom_push(key="statistics", value=parts[0])
            return {"outputs": {"statistics": parts[0]}}
        self.inputs = {"statistics": parts}
        return super().execute(context)


class PlanLayersOperator(BaseOperator):
    """The shards of *sweep_edit_layers*, where the layers are looked for; checked before anything runs."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        params = dict(context["params"])
        try:
            check_params(params, context["dag"].params)
            planned = sweeps(params)
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        if not planned:
            raise AirflowSkipException("The layers to edit are not looked for.")
        return planned


def sweeps(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each task of the sweep is given: the method of the form with its options, and a part of the candidate layers.

    Raises :class:`ConfigError` for a method without layers, and where the form names the layers that are to be found.
    """
    if params["layers"] != FIND:
        return []
    if named := [f"edit_{name}={params[f'edit_{name}']}" for name in LAYERS if params.get(f"edit_{name}") not in (None, [], -1)]:
        raise ConfigError(
            f"layers={FIND}, but {', '.join(named)}. Leave that empty, or set layers={GIVEN}; layers to try are candidate_layers."
        )
    options = config_values(STEPS["edit"], "edit", params)["options"]
    fixed = {
        "method": params["edit_method"],
        "options": {name: value for name, value in options.items() if name not in LAYERS},
        "shards": params[TASKS],
    }
    planned = [fixed | {"shard": shard} for shard in range(params[TASKS])]
    step = STEPS["sweep_edit_layers"]
    values = config_values(step, step.name, params)
    parse_config(step.config_class, override(step, values, planned[0]), where=f"Params {step.name}_*")
    return planned


class HeldOutFactsOperator(EvaluateEditsOperator):
    """Facts to find a layer on: those that the model knows, or all of them where the form keeps unknown ones."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(prefix=EvaluateEditsOperator.step, **kwargs)

    def fixed(self, context: Context) -> Mapping[str, Any]:
        unknown = "keep" if context["params"]["evaluate_edits_unknown"] == "keep" else "leave_out"
        return {"mode": "known", "unknown": unknown, "max_facts": 0, **self.config}


class SweepEditLayersOperator(StepOperator):
    """Layers tried on facts, each edited alone. A mapped task for a part of them: ``.expand(config=plan.output)``."""

    step = "sweep_edit_layers"


class ChooseEditLayerOperator(StepOperator):
    """The best layer of a mapped sweep; hands on ``options``, what it sets of the method's.

    :param sweep_task: id of the mapped sweep task.
    """

    step = "choose_edit_layer"

    def __init__(self, *, sweep_task: str, **kwargs: Any) -> None:
        super().__init__(prefix=SweepEditLayersOperator.step, **kwargs)
        self.sweep_task = sweep_task

    def job(self, context: Context) -> Job:
        self.inputs = numbered_inputs({"reports": mapped_outputs(context, self.sweep_task, "report", context["params"][TASKS])})
        return super().job(context)

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        context["ti"].xcom_push(key="options", value=result.summary["best"]["options"])
        return super().hand_on(context, job, result)
