"""The layer that takes edits best, found on facts that are not edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context, Param
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError
from lfm_tasks.form import config_fields, config_values, override
from lfm_tasks.operators.base import StepOperator, mapped_outputs, of_params
from lfm_tasks.operators.editing import FIND, EvaluateEditsOperator, ImportFactsOperator
from lfm_tasks.operators.params import airflow_params, reference_param
from lfm_tasks.runner.job import Job, JobResult, numbered_inputs
from lfm_tasks.steps import STEPS

GIVEN = "given"
EVERY_FACT = {"facts": [], "format": "auto", "max_facts": 0}
"""Of a file, none of those typed in."""
TASKS = "sweep_edit_layers_shards"
LAYERS = ("layer", "layers")


def layer_params() -> dict[str, Param]:
    """The form of :func:`find_layer` and of statistics in shards."""
    statistics, sweep = STEPS["statistics"], STEPS[SweepEditLayersOperator.step]
    choice = Param(
        GIVEN,
        type="string",
        enum=[GIVEN, FIND],
        values_display={GIVEN: "Those named below, or the method's own", FIND: "Find for me"},
        title="Layers",
        description="Find for me: candidate layers are tried on known facts that are not to be edited, and the best one is edited.",
        section="What to work on",
    )
    held_out = reference_param(
        "data", "starter://country-facts", "Held-out facts", "Facts on which the layer is found, without those that are edited."
    )
    fields = config_fields(statistics.config_class, statistics.name, statistics.title, skip=["method", "options", "split", "shard", "seed"])
    fields |= config_fields(sweep.config_class, sweep.name, sweep.title, skip=["method", "options", "shard"])
    return {"layers": choice, "held_out_facts": held_out, **airflow_params(fields)}


def find_layer(facts: Any, statistics: Any, general: Any, **heavy: Any) -> StepOperator:
    """Wire the tasks ``layers``, ``others``, ``held_out``, ``sweep_layers`` and ``choose_layer``; returns the last. They are skipped unless
    the form wants the layer to be found.

    :param facts: that are to be edited; ``statistics`` and ``general``: what the edit is given beside them.
    """
    model = {"model": "{model}"}
    layers = PlanLayersOperator(task_id="layers")
    others = ImportFactsOperator(task_id="others", references={"data": "{held_out_facts}"}, config=EVERY_FACT)
    held_out = HeldOutFactsOperator(task_id="held_out", references=model, inputs={"facts": others.output["dataset"]}, **heavy)
    given = {"facts": held_out.output["known"], "edited": facts, "statistics": statistics, "general": general}
    sweep = SweepEditLayersOperator.partial(
        task_id="sweep_layers", references=model, inputs=given, trigger_rule="none_failed", **heavy
    ).expand(config=layers.output)
    choose = ChooseEditLayerOperator(task_id="choose_layer", sweep_task="sweep_layers")
    layers >> others
    sweep >> choose
    return choose


class PlanLayersOperator(BaseOperator):
    """The shards of *sweep_edit_layers*, where the layers are looked for; checked before anything runs."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        planned = of_params(context, sweeps)
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
