"""Operators of the steps that look at the store as a whole."""

from __future__ import annotations

from lfm_tasks.operators.base import StepOperator


class ReplayOperator(StepOperator):
    """Rebuild an artifact from its records and say of each step whether the same came out again."""

    step = "replay"


class CollectOperator(StepOperator):
    """Say which artifacts nothing in use was made from, and delete those that a person names."""

    step = "collect"
