"""One metric of two models on the same samples: the difference, its interval, and the verdict that its role asks for."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1
from typing import Any, Literal

from lfm_tasks.metrics.binomial import McNemar, mcnemar
from lfm_tasks.metrics.bootstrap import paired_bootstrap, percentile_interval, randomisation_p
from lfm_tasks.metrics.catalogue import build_metric
from lfm_tasks.metrics.metric import Metric
from lfm_tasks.metrics.samples import metric_columns, of_group
from lfm_tasks.metrics.verdicts import gain_on_scale, loss_on_scale, non_inferiority, superiority
from lfm_tasks.promotion.config import GateConfig
from lfm_tasks.promotion.reports import Report
from lfm_tasks.seeds import derive_seed

Role = Literal["primary", "must_not_regress", "shown"]


@dataclass(frozen=True)
class Comparison:
    """``difference``, ``low`` and ``high`` are challenger minus champion on the metric's scale (a log ratio for perplexity).

    ``margin`` is the loss that is tolerated, or for the primary metric the gain that is asked for, on the same scale.
    ``p`` is McNemar's exact p-value for 0/1 metrics, else that of paired randomisation.
    """

    name: str
    metric: Metric
    role: Role
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    margin: float | None
    verdict: str | None
    p: float
    mcnemar: McNemar | None
    n: int

    @property
    def gain(self) -> tuple[float, float, float]:
        """Difference, low and high turned so that positive means the challenger is better."""
        if self.metric.higher_is_better:
            return self.difference, self.low, self.high
        return -self.difference, -self.high, -self.low

    def entry(self) -> dict[str, Any]:
        """The metric's part of ``decision.json``."""
        shown = ("champion", "challenger", "difference", "low", "high", "margin", "role", "verdict", "n", "p")
        entry = {name: getattr(self, name) for name in shown}
        entry |= {"scale": self.metric.scale, "higher_is_better": self.metric.higher_is_better, "unit": self.metric.unit}
        if self.mcnemar is not None:
            entry |= {"mcnemar_p": self.mcnemar.exact_p, "mcnemar_mid_p": self.mcnemar.mid_p}
            entry |= {"gained": self.mcnemar.gained, "lost": self.mcnemar.lost}
        return entry

    def sentence(self) -> str:
        """What was measured, in words."""
        low, high = (self.change(value) for value in (self.low, self.high))
        moved = "stayed at" if self.challenger == self.champion else "rose" if self.challenger > self.champion else "fell"
        values = f"{self.shown(self.champion)} to {self.shown(self.challenger)}"
        path = f"{moved} from {values}" if moved != "stayed at" else f"stayed at {self.shown(self.champion)}"
        text = f"{self.name} {path} ({self.change(self.difference)}, interval {low} to {high}, {self.n:,} samples)"
        if self.mcnemar is not None:
            text += f"; {self.mcnemar.gained} samples gained, {self.mcnemar.lost} lost, McNemar p = {self.p:.2g}"
        return text

    def shown(self, value: float) -> str:
        return f"{value:.1%}" if self.metric.unit == "share" else f"{value:.4g}"

    def change(self, difference: float) -> str:
        """A difference on the metric's scale as people read it: points of a share, percent of a perplexity."""
        if self.metric.scale == "log_ratio":
            return f"{100 * expm1(difference):+.1f}%"
        return f"{100 * difference:+.1f} points" if self.metric.unit == "share" else f"{difference:+.3g}"


def compare(name: str, role: Role, challenger: Report, champion: Report, config: GateConfig) -> Comparison:
    """The challenger against the champion in the metric ``name``, by the paired bootstrap over their common samples."""
    group, labels = name.partition("/")[0], champion.described["labels"]
    metric = build_metric(name, classes=len(labels), bins=champion.described["settings"]["calibration_bins"])
    columns = [metric_columns(of_group(report.samples, group), labels) for report in (challenger, champion)]
    ours, theirs = (metric.features(samples) for samples in columns)
    values = [float(metric.statistic(features.sum(axis=0))) for features in (ours, theirs)]
    draws = paired_bootstrap(ours, theirs, metric.statistic, config.bootstrap_samples, derive_seed(config.seed, "paired", name))
    low, high = percentile_interval(metric.compare(*draws), config.confidence_level)
    test = mcnemar(columns[0]["correct"], columns[1]["correct"]) if metric.binary else None
    key = derive_seed(config.seed, "randomisation", name)
    p = test.exact_p if test else randomisation_p(metric, ours, theirs, config.bootstrap_samples, key)
    difference = float(metric.compare(*values))
    margin, verdict = judge(name, role, metric, (difference, low, high), p, config)
    return Comparison(name, metric, role, values[1], values[0], difference, low, high, margin, verdict, p, test, len(ours))


def judge(
    name: str, role: Role, metric: Metric, interval: tuple[float, float, float], p: float, config: GateConfig
) -> tuple[float | None, str | None]:
    """Margin and verdict of a metric in its role; ``interval`` is (difference, low, high)."""
    difference, low, high = interval
    gain, least = (difference, low) if metric.higher_is_better else (-difference, -high)
    if role == "primary":
        margin = gain_on_scale(metric, config.min_improvement)
        return margin, superiority(gain, least, p, 1 - config.confidence_level, margin)
    if role == "must_not_regress":
        margin = loss_on_scale(metric, config.margin_of(name))
        return margin, non_inferiority(gain, least, margin)
    return None, None
