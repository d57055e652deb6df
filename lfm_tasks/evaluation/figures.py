"""Pictures of an evaluation: who is taken for whom, may the confidence be believed, which class is weak.

Each title states the finding. Colours are Okabe and Ito's, which colour-blind people tell apart. Equal tables give equal bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.metrics.binomial import wilson_interval
from lfm_tasks.metrics.calibration import expected_calibration_error, reliability
from lfm_tasks.metrics.catalogue import LABELLED, METRICS_OF
from lfm_tasks.metrics.classification import confusion_matrix
from lfm_tasks.metrics.metric import Samples
from lfm_tasks.metrics.samples import metric_columns

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a8a8a"
MOST_CLASSES = 25


def draw_group(group: str, table: pa.Table, labels: list[str], config: EvaluateConfig, directory: Path) -> list[Path]:
    """The pictures of a group with labels, as PNG files in ``directory``; other groups have none."""
    if METRICS_OF[group] != LABELLED:
        return []
    samples = metric_columns(table, labels)
    pictures = {
        "confusion": confusion(samples, labels),
        "reliability": reliability_diagram(samples, config.calibration_bins),
        "classes": class_accuracy(samples, labels, config.confidence_level),
    }
    paths = []
    for name, figure in pictures.items():
        paths.append(directory / f"{group}_{name}.png")
        figure.savefig(paths[-1], metadata={"Software": None})
    return paths


def confusion(samples: Samples, labels: list[str]) -> Figure:
    """Counts, shaded by the share of their target's row. Of many classes, those with the most mistakes are shown."""
    counts = confusion_matrix(samples["target"], samples["prediction"], len(labels))
    title = _most_confused(counts, labels)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
    counts, names = counts[np.ix_(shown, shown)], [_short(labels[i]) for i in shown]
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    size = max(4.8, 0.62 * len(shown) + 2.4)
    figure = Figure(figsize=(size + 0.9, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.55 else "#333333"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, weight="bold" if row == column else "normal")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("target")
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the target's samples", shrink=0.8)
    return figure


def reliability_diagram(samples: Samples, bins: int) -> Figure:
    """Accuracy against confidence, bin by bin, above the number of samples in each bin."""
    confidence, correct = samples["confidence"], samples["correct"]
    found, error = reliability(confidence, correct, bins), expected_calibration_error(bins).value(samples)
    figure = Figure(figsize=(6.2, 6.2), dpi=120, layout="constrained")
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    curve.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="confidence = accuracy")
    bounds = [wilson_interval(int(round(a * n)), int(n), 0.95) for a, n in zip(found.accuracy, found.count, strict=True)]
    _with_bars(curve, found.confidence, found.accuracy, bounds)
    curve.set_ylabel("accuracy")
    curve.set_ylim(-0.02, 1.02)
    curve.legend(frameon=False, loc="lower right")
    curve.set_title(_trust(float(confidence.mean()), float(correct.mean()), error), loc="left", fontsize=11)
    histogram.bar(found.low, found.count, width=found.high - found.low, align="edge", color=BLUE, edgecolor="white")
    histogram.set_ylabel("samples")
    histogram.set_xlabel("confidence")
    histogram.set_xlim(0, 1)
    for axes in (curve, histogram):
        _plain(axes)
    return figure


def class_accuracy(samples: Samples, labels: list[str], level: float) -> Figure:
    """Share of each class's samples that is right, weakest first, with Wilson's interval; the line is all classes together."""
    target, correct = samples["target"], samples["correct"]
    total = np.bincount(target, minlength=len(labels))
    right = np.bincount(target, weights=correct, minlength=len(labels))
    share = right / np.maximum(1, total)
    order = [i for i in np.argsort(share, kind="stable") if total[i]][:MOST_CLASSES]
    bounds = [wilson_interval(int(right[i]), int(total[i]), level) for i in order]
    figure = Figure(figsize=(7.6, 1.5 + 0.42 * len(order)), dpi=120, layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(order))[::-1]
    axes.axvline(correct.mean(), color=GREY, linestyle="--", linewidth=1.2, label=f"all classes: {correct.mean():.0%}")
    low, high = np.array(bounds).T
    axes.hlines(rows, low, high, color=BLUE, linewidth=2.2)
    axes.plot(share[order], rows, "o", color=BLUE, markersize=7)
    axes.set_yticks(rows, [f"{_short(labels[i])}  ({total[i]:,})" for i in order])
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(f"share right, with {level:.0%} interval")
    weakest, (weak_low, weak_high) = order[0], bounds[0]
    axes.set_title(
        f"Weakest class: {_short(labels[weakest])}, {share[weakest]:.0%} right ({weak_low:.0%} to {weak_high:.0%})", loc="left", fontsize=11
    )
    axes.legend(frameon=False, loc="lower left")
    _plain(axes)
    return figure


def _most_confused(counts: NDArray[np.int64], labels: list[str]) -> str:
    wrong = counts - np.diag(counts.diagonal())
    if not wrong.any():
        return f"All {counts.sum():,} samples are right"
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    times = f"{wrong[row, column]:,} of {counts[row].sum():,}"
    return f"Most often mistaken: {_short(labels[row])} for {_short(labels[column])} ({times})"


def _trust(confidence: float, accuracy: float, error: float) -> str:
    gap = confidence - accuracy
    verdict = "Too sure of itself" if gap > 0.02 else "Too modest" if gap < -0.02 else "As sure as it is right"
    return f"{verdict}: says {confidence:.0%}, is right {accuracy:.0%} (ECE {error:.1%})"


def _with_bars(axes: Axes, x: NDArray, y: NDArray, bounds: list[tuple[float, float]]) -> None:
    low, high = np.array(bounds).T
    axes.vlines(x, low, high, color=ORANGE, linewidth=1.6, alpha=0.7)
    axes.plot(x, y, "-o", color=ORANGE, linewidth=1.6, markersize=6, label="measured, with 95% interval")


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _short(label: str, limit: int = 24) -> str:
    """A label as plain text: matplotlib reads ``$`` as the start of a formula."""
    text = label if len(label) <= limit else label[: limit - 1] + "…"
    return text.replace("$", r"\$")
