"""One operator per step."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import Context

from lfm_tasks.operators.base import StepOperator
from lfm_tasks.proposals import remember
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.settings import settings


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


class TuneOperator(StepOperator):
    """Adapt a model to a prepared data set."""

    step = "tune"


class StatisticsOperator(StepOperator):
    """Gram matrices or Fisher information of a model on its data, once for all merges."""

    step = "statistics"


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
