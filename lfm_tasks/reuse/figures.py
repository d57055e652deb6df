"""Pictures of a learning: how the entropy went, and which coefficients came of it. Equal values give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

MOST_ROWS = 40
"""Names of tensors that a heat map writes out; of more, every second, third, … is."""


def draw_losses(losses: Sequence[Sequence[float]], tasks: Sequence[str], path: Path) -> Path:
    """Mean entropy of each task's predictions over the steps."""
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, task in enumerate(tasks):
        axes.plot(range(1, len(losses) + 1), [step[place] for step in losses], linewidth=1.4, label=_plain(task))
    axes.set_xlabel("step")
    axes.set_ylabel("mean entropy of a batch (nats)")
    axes.set_title("Entropy of each task's predictions", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})
    return path


def draw_coefficients(coefficients: Tensor, tensors: Sequence[str], tasks: Sequence[str], path: Path) -> Path:
    """Heat map of the coefficients [tensors, tasks]."""
    values = coefficients.numpy()
    figure = Figure(figsize=(5.5 + 0.9 * len(tasks), 2.2 + 0.22 * min(len(tensors), MOST_ROWS)), dpi=120, layout="constrained")
    axes = figure.subplots()
    reach = max(float(np.abs(values).max()), 1e-6)
    image = axes.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    every = -(-len(tensors) // MOST_ROWS)
    axes.set_yticks(range(0, len(tensors), every), [_plain(name) for name in tensors[::every]], fontsize=7)
    axes.set_xticks(range(len(tasks)), [_plain(task) for task in tasks], rotation=35, ha="right")
    axes.spines[:].set_visible(False)
    axes.set_title("Learnt coefficients of the task vectors", loc="left")
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path, metadata={"Software": None})
    return path


def _plain(name: str, limit: int = 44) -> str:
    """The end of a long name; matplotlib reads ``$`` as the start of a formula."""
    return (name if len(name) <= limit else "…" + name[1 - limit :]).replace("$", r"\$")
