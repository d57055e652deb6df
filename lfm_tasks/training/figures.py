"""The learning curve as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure


def learning_curve(history: list[dict[str, float]], best_step: int, path: Path) -> None:
    """Training loss (each step, and smoothed), validation loss and learning rate over the steps."""
    train = [(entry["step"], entry["loss"], entry["learning_rate"]) for entry in history if "loss" in entry]
    validation = [(entry["step"], entry["validation_loss"]) for entry in history if "validation_loss" in entry]
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    steps = [step for step, _, _ in train]
    values = [loss for _, loss, _ in train]
    losses.plot(steps, values, color="#9db8d9", linewidth=1, label="training, each step")
    losses.plot(steps, _smoothed(values), color="#1f5fa8", linewidth=2, label="training, smoothed")
    if validation:
        losses.plot(*zip(*validation, strict=True), color="#c4501b", linewidth=2, marker="o", label="validation")
    if best_step:
        losses.axvline(best_step, color="#777777", linestyle=":", linewidth=1.2, label=f"best validation (step {best_step})")
    losses.set_ylabel("loss (nats)")
    losses.set_title("Learning curve", loc="left")
    losses.legend(frameon=False)
    rates.plot(steps, [rate for _, _, rate in train], color="#3b7d4f", linewidth=1.6)
    rates.set_ylabel("learning rate")
    rates.set_xlabel("optimiser step")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (losses, rates):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def _smoothed(values: list[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smoothed, average = [], 0.0
    for count, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**count))
    return smoothed
