"""Which metrics a group of samples has. A metric's full name is ``group/metric``, e.g. ``choice/accuracy``."""

from __future__ import annotations

from collections.abc import Callable

from lfm_tasks.metrics.calibration import adaptive_calibration_error, brier_score, expected_calibration_error
from lfm_tasks.metrics.classification import accuracy, macro_f1
from lfm_tasks.metrics.likelihood import bits_per_byte, perplexity
from lfm_tasks.metrics.metric import Metric

LABELLED = ("accuracy", "macro_f1", "ece", "adaptive_ece", "brier")
LIKELIHOOD = ("perplexity", "bits_per_byte")
METRICS_OF: dict[str, tuple[str, ...]] = {
    "choice": LABELLED,
    "classification": LABELLED,
    "generation": ("exact_match",),
    "completion": ("perplexity",),
    "text": LIKELIHOOD,
    "general": LIKELIHOOD,
}
_BUILDERS: dict[str, Callable[[int, int], Metric]] = {
    "accuracy": lambda classes, bins: accuracy(),
    "exact_match": lambda classes, bins: accuracy(),
    "macro_f1": lambda classes, bins: macro_f1(classes),
    "ece": lambda classes, bins: expected_calibration_error(bins),
    "adaptive_ece": lambda classes, bins: adaptive_calibration_error(bins),
    "brier": lambda classes, bins: brier_score(classes),
    "perplexity": lambda classes, bins: perplexity(),
    "bits_per_byte": lambda classes, bins: bits_per_byte(),
}


def build_metric(name: str, *, classes: int, bins: int) -> Metric:
    """The metric of a full name such as ``choice/macro_f1``."""
    return _BUILDERS[name.partition("/")[2]](classes, bins)


def metric_names(group: str) -> list[str]:
    return [f"{group}/{metric}" for metric in METRICS_OF[group]]
