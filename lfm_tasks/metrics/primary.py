"""Which metrics a decision looks at first. Light to import: no numbers are computed here."""

from __future__ import annotations

from collections.abc import Collection

PRIMARY = (
    "efficacy.free_running/prefix_match",
    "choice/accuracy",
    "classification/accuracy",
    "generation/exact_match",
    "completion/perplexity",
    "text/perplexity",
    "general/perplexity",
)
"""What a decision looks at first, in this order."""


def primary_metric(measured: Collection[str]) -> str:
    """The metric among ``measured`` that a decision is made by unless another is named."""
    return next(name for name in PRIMARY if name in measured)
