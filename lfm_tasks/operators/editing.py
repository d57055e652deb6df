"""Operators of editing: facts, key moments, editors, edits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.catalogue import METHODS
from lfm_tasks.operators.base import StepOperator, mapped_outputs
from lfm_tasks.operators.steps import PrepareOperator, StatisticsOperator
from lfm_tasks.runner.job import Job

KEY_MOMENTS = "key_moments"
SHARDS = "statistics_shards"
FIND = "find"
"""Of the Param ``layers``: the layer to edit is looked for."""


class ImportFactsOperator(StepOperator):
    """Rows of published data sets, or facts typed in, to facts that can be edited."""

    step = "import_facts"


class PrepareCorpusOperator(PrepareOperator):
    """Text for statistics of a decoder, all of it in the train split."""

    def __init__(self, **kwargs: Any) -> None:
        fixed = {"task": "text", "validation_fraction": 0.0, "test_fraction": 0.0, "max_length": 256}
        super().__init__(prefix="corpus", config=fixed, **kwargs)


class EvaluateEditsOperator(StepOperator):
    """Measure what a model says about edited facts; or find the facts that it knows."""

    step = "evaluate_edits"


class PlanShardsOperator(BaseOperator):
    """The shards of *statistics* (Param ``statistics_shards``); none for a method that needs no key moments."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        needed = METHODS[context["params"]["edit_method"]].needs == KEY_MOMENTS
        return [{"shard": place} for place in range(context["params"][SHARDS])] if needed else []


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


class KeyMomentsOperator(StatisticsOperator):
    """Second moments of the keys of the layers to be edited or tried, or of the first half; skipped where the method needs none."""

    @classmethod
    def in_shards(cls, *, task_id: str, inputs: Mapping[str, Any], pool: str, **kwargs: Any) -> AddStatisticsOperator:
        """Wire a mapped task for each shard of the Param ``statistics_shards``, and ``add_statistics``, which is returned."""
        shards = PlanShardsOperator(task_id="shards")
        parts = cls.partial(task_id=task_id, inputs=inputs, pool=pool, **kwargs).expand(config=shards.output)
        added = AddStatisticsOperator(task_id="add_statistics", statistics_task=task_id, trigger_rule="none_failed", pool=pool)
        parts >> added
        return added

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(prefix="statistics", **kwargs)

    def job(self, context: Context) -> Job:
        method = context["params"]["edit_method"]
        if METHODS[method].needs != KEY_MOMENTS:
            raise AirflowSkipException(f"{method} needs no second moments of keys.")
        return super().job(context)

    def fixed(self, context: Context) -> Mapping[str, Any]:
        params = context["params"]
        options = METHODS[params["edit_method"]].config_class.model_fields
        layers = (params["edit_layers"] or []) if "layers" in options else [params["edit_layer"]] if "layer" in options else []
        if candidates := params.get("sweep_edit_layers_candidate_layers") if params.get("layers") == FIND else None:
            width = params["sweep_edit_layers_width"]
            layers = sorted({layer - back for layer in candidates for back in range(width)})
        layers = [layer for layer in layers if layer is not None and layer >= 0]
        return {"method": KEY_MOMENTS, "split": "train", **self.config} | ({"layers": layers} if layers else {})


def editor_to_train(params: Mapping[str, Any]) -> str:
    """The way of training of the editor that the form's method needs.

    Raises :class:`AirflowSkipException` where it needs none, and where one is given.
    """
    method = params["edit_method"]
    needs = METHODS[method].needs
    if needs not in METHODS or METHODS[needs].step != TrainEditorOperator.step:
        raise AirflowSkipException(f"{method} needs no editor.")
    if params["editor"]:
        raise AirflowSkipException(f"The editor {params['editor']} was given.")
    return needs


class ImportTrainingFactsOperator(ImportFactsOperator):
    """Facts that an editor is trained on; skipped where none is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(config={"facts": [], "max_facts": 0, "problems": "drop"}, **kwargs)

    def job(self, context: Context) -> Job:
        editor_to_train(context["params"])
        return super().job(context)


class TrainEditorOperator(StepOperator):
    """The editor that the method needs, learnt from facts of other subjects; skipped where it needs none, or one is given."""

    step = "train_editor"

    def job(self, context: Context) -> Job:
        editor_to_train(context["params"])
        return super().job(context)

    def fixed(self, context: Context) -> Mapping[str, Any]:
        return {**self.config, "method": editor_to_train(context["params"])}


class EditOperator(StepOperator):
    """Facts into a model, round by round.

    :param layer_task: id of the task that chose the layer, whose ``options`` win over Params; where it was skipped there are none.
    """

    step = "edit"

    def __init__(self, *, layer_task: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer_task = layer_task

    def fixed(self, context: Context) -> Mapping[str, Any]:
        found = context["ti"].xcom_pull(task_ids=self.layer_task, key="options") if self.layer_task else None
        return {**self.config, **(found or {})}
