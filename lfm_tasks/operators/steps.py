"""One operator per step."""

from __future__ import annotations

from lfm_tasks.operators.base import StepOperator


class PrepareOperator(StepOperator):
    """Rows to a split, de-duplicated, tokenised data set."""

    step = "prepare"


class TuneOperator(StepOperator):
    """Adapt a model to a prepared data set."""

    step = "tune"


class EvaluateOperator(StepOperator):
    """Measure a model, with intervals and a per-sample table."""

    step = "evaluate"


class GateOperator(StepOperator):
    """Compare challenger and champion on the same samples and decide."""

    step = "gate"


class PromoteOperator(StepOperator):
    """Register the challenger and move the alias, when the decision says so."""

    step = "promote"
