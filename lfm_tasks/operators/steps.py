"""One operator per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.catalogue import METHODS
from lfm_tasks.operators.base import StepOperator
from lfm_tasks.proposals import remember
from lfm_tasks.registry import Step
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.settings import settings

KEY_MOMENTS = "key_moments"


class PrepareOperator(StepOperator):
    """Rows to a split, de-duplicated, tokenised data set."""

    step = "prepare"

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        for name, what in (("data", "data"), ("model", "models")):
            given = job.inputs[name]
            remember(settings(), what, [given if isinstance(given, str) else given[0]])
        return super().hand_on(context, job, result)


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


class KeyMomentsOperator(StatisticsOperator):
    """Second moments of the keys of the layers that are to be edited, or of the first half; skipped where the method needs none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(prefix="statistics", config={"method": KEY_MOMENTS, "split": "train"}, **kwargs)

    def job(self, context: Context) -> Job:
        method = context["params"]["edit_method"]
        if METHODS[method].needs != KEY_MOMENTS:
            raise AirflowSkipException(f"{method} needs no second moments of keys.")
        return super().job(context)

    def fixed(self, context: Context) -> Mapping[str, Any]:
        params = context["params"]
        options = METHODS[params["edit_method"]].config_class.model_fields
        layers = (params["edit_layers"] or []) if "layers" in options else [params["edit_layer"]] if "layer" in options else []
        layers = [layer for layer in layers if layer is not None and layer >= 0]
        return {**self.config, "layers": layers} if layers else self.config


class EditOperator(StepOperator):
    """Facts into a model, round by round."""

    step = "edit"


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
