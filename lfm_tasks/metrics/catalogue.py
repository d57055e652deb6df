"""Which metrics a group of samples has. A metric's full name is ``group/metric``, e.g. ``choice/accuracy``."""

from __future__ import annotations

from collections.abc import Callable

from lfm_tasks.metrics.calibration import adaptive_calibration_error, brier_score, expected_calibration_error
from lfm_tasks.metrics.classification import accuracy, macro_f1
from lfm_tasks.metrics.edits import magnitude, share_of_tokens
from lfm_tasks.metrics.likelihood import bits_per_byte, perplexity
from lfm_tasks.metrics.metric import Metric

LABELLED = ("accuracy", "macro_f1", "ece", "adaptive_ece", "brier")
LIKELIHOOD = ("perplexity", "bits_per_byte")
FORCED = ("success", "magnitude")
METRICS_OF: dict[str, tuple[str, ...]] = {
    "choice": LABELLED,
    "classification": LABELLED,
    "generation": ("exact_match",),
    "completion": ("perplexity",),
    "text": LIKELIHOOD,
    "general": LIKELIHOOD,
    "efficacy.teacher_forced": FORCED,
    "efficacy.teacher_forced_tokens": ("token_accuracy",),
    "efficacy.free_running": ("prefix_match",),
    "efficacy.free_running_whole": ("exact_match",),
    "paraphrase.teacher_forced": FORCED,
    "paraphrase.free_running": ("prefix_match",),
    "neighbourhood.teacher_forced": FORCED,
    "locality.teacher_forced_tokens": ("unchanged_tokens",),
    "locality.free_running": ("unchanged",),
    "portability.free_running": ("prefix_match",),
    "retention.teacher_forced": FORCED,
    "retention.free_running": ("prefix_match",),
}
"""The groups of edits are named ``aspect.protocol``: answers given under teacher forcing and answers generated freely are never one."""
_BUILDERS: dict[str, Callable[[int, int], Metric]] = {
    "accuracy": lambda classes, bins: accuracy(),
    "exact_match": lambda classes, bins: accuracy(),
    "macro_f1": lambda classes, bins: macro_f1(classes),
    "ece": lambda classes, bins: expected_calibration_error(bins),
    "adaptive_ece": lambda classes, bins: adaptive_calibration_error(bins),
    "brier": lambda classes, bins: brier_score(classes),
    "perplexity": lambda classes, bins: perplexity(),
    "bits_per_byte": lambda classes, bins: bits_per_byte(),
    "prefix_match": lambda classes, bins: accuracy(),
    "unchanged": lambda classes, bins: accuracy(),
    "success": lambda classes, bins: accuracy(),
    "magnitude": lambda classes, bins: magnitude(),
    "token_accuracy": lambda classes, bins: share_of_tokens(),
    "unchanged_tokens": lambda classes, bins: share_of_tokens(),
}


def build_metric(name: str, *, classes: int, bins: int) -> Metric:
    """The metric of a full name such as ``choice/macro_f1``."""
    return _BUILDERS[name.partition("/")[2]](classes, bins)


def metric_names(group: str) -> list[str]:
    """Of ``portability.alias.free_running`` and the like those of ``portability.free_running``."""
    aspect, _, rest = group.partition(".")
    known = METRICS_OF[group] if group in METRICS_OF else METRICS_OF[f"{aspect}.{rest.rpartition('.')[2]}"]
    return [f"{group}/{metric}" for metric in known]
