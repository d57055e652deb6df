"""One operator per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.catalogue import METHODS
from lfm_tasks.operators.base import StepOperator, mapped_outputs
from lfm_tasks.operators.connections import teacher_key
from lfm_tasks.proposals import remember
from lfm_tasks.registry import Step
from lfm_tasks.rows.templates import columns_of
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.settings import settings

KEY_MOMENTS = "key_moments"
SHARDS = "statistics_shards"
FIND = "find"
"""Of the Param ``layers``: the layer to edit is looked for."""


class PrepareOperator(StepOperator):
    """Rows to a split, de-duplicated, tokenised data set."""

    step = "prepare"

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        for name, what in (("data", "data"), ("model", "models")):
            given = job.inputs[name]
            remember(settings(), what, [given if isinstance(given, str) else given[0]])
        return super().hand_on(context, job, result)


class PrepareImagesOperator(StepOperator):
    """Labelled images to splits of plain pixels."""

    step = "prepare_images"


class PrepareGeneralOperator(PrepareOperator):
    """General text, all of it held out, so that perplexity on it shows forgetting."""

    def __init__(self, **kwargs: Any) -> None:
        fixed = {"task": "text", "validation_fraction": 0.0, "test_fraction": 1.0, "max_length": 256}
        super().__init__(prefix="general", config=fixed, **kwargs)


class ImportFactsOperator(StepOperator):
    """Rows of published data sets, or facts typed in, to facts that can be edited."""

    step = "import_facts"


class PrepareCorpusOperator(PrepareOperator):
    """Text for statistics of a decoder, all of it in the train split."""

    def __init__(self, **kwargs: Any) -> None:
        fixed = {"task": "text", "validation_fraction": 0.0, "test_fraction": 0.0, "max_length": 256}
        super().__init__(prefix="corpus", config=fixed, **kwargs)


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


class WriteRationalesOperator(StepOperator):
    """A teacher's answers with reasons to rows that a student learns from."""

    step = "write_rationales"


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


class TuneOperator(StepOperator):
    """Adapt a model to a prepared data set."""

    step = "tune"


class CutStudentOperator(StepOperator):
    """A smaller model from a teacher's layers and units.

    :param unless: Param that names a student; where it is filled in, nothing is cut.
    """

    step = "cut_student"

    def __init__(self, *, unless: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unless = unless

    def job(self, context: Context) -> Job:
        if self.unless and context["params"][self.unless]:
            raise AirflowSkipException(f"The student is {context['params'][self.unless]}.")
        return super().job(context)


class RecordSignalsOperator(StepOperator):
    """What a teacher says of a data set, once for all epochs and students.

    :param when: Param that asks for it.
    """

    step = "record_signals"

    def __init__(self, *, when: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.when = when

    def job(self, context: Context) -> Job:
        if self.when and not context["params"][self.when]:
            raise AirflowSkipException(f"Nothing is recorded: '{self.when}' is off.")
        return super().job(context)


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


class StatisticsOperator(StepOperator):
    """Gram matrices or Fisher information of a model on its data, once for all merges."""

    step = "statistics"


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


class DistillDataFreeOperator(StepOperator):
    """A student learns from a teacher's answers to images that were made for it; no data is looked at."""

    step = "distill_data_free"


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


class MergeOperator(StepOperator):
    """Several models to one."""

    step = "merge"


class MergeAdaptersOperator(StepOperator):
    """Several LoRA adapters of one base to one adapter."""

    step = "merge_adapters"


class AlignOperator(StepOperator):
    """The units of a model put where those of a reference are, so that the two can be merged."""

    step = "align"


class ConnectOperator(StepOperator):
    """Loss and accuracy on the way between two models."""

    step = "connect"


class RestackOperator(StepOperator):
    """A model from layers of one or more."""

    step = "restack"


class MixOperator(StepOperator):
    """Several models to one whose experts answer each input in their own measure."""

    step = "mix"


class UnloadOperator(StepOperator):
    """A plain model of a mixture."""

    step = "unload"


class SearchMergeOperator(StepOperator):
    """The options of a merge that do best on validation rows, and the merge by them.

    A mapped task for each method: ``SearchMergeOperator.partial(…).expand(config=[{"method": "ties", "search": {…}}, …])``.
    """

    step = "search_merge"


class EvaluateOperator(StepOperator):
    """Measure a model, with intervals and a per-sample table."""

    step = "evaluate"


class EvaluateEditsOperator(StepOperator):
    """Measure what a model says about edited facts; or find the facts that it knows."""

    step = "evaluate_edits"


class EnsembleOperator(StepOperator):
    """Measure several models that answer together, as one model is measured."""

    step = "ensemble"


class GateOperator(StepOperator):
    """Compare challenger and champion on the same samples and decide."""

    step = "gate"


class AliasOperator(StepOperator):
    """A step that moves an alias; the forms propose what it named."""

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        if result.summary["moved"]:
            remember(settings(), "models", [f"models:/{result.summary['model_name']}@{result.summary['alias']}"])
            remember(settings(), "names", [result.summary["model_name"]])
        return super().hand_on(context, job, result)


class PromoteOperator(AliasOperator):
    """Register the challenger and move the alias, when the decision says so."""

    step = "promote"


class RollbackOperator(AliasOperator):
    """Move an alias back to a version that the ledger knows."""

    step = "rollback"


class DecidingOperator(StepOperator, SkipMixin):
    """Goes on only if the step's summary says so; else everything after it is skipped, and that is a success."""

    goes_on_if: ClassVar[str]
    inherits_from_skipmixin = True

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        handed = super().hand_on(context, job, result)
        if not result.summary[self.goes_on_if]:
            context["ti"].xcom_push(key="return_value", value=handed)
            after = context["task"].get_flat_relatives(upstream=False)
            self.skip(ti=context["ti"], tasks=[task for task in after if not task.is_teardown])
        return handed


class NoveltyOperator(DecidingOperator):
    """Go on only if the model was not judged on this data set before."""

    step = "novelty"
    goes_on_if = "new"


class JudgeStudentOperator(DecidingOperator):
    """Go on only if the student has kept enough of its teacher and is fast enough."""

    step = "judge_student"
    goes_on_if = "passed"
