"""What a run has to say when it is over: metrics, and its learning curve as a picture and as numbers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.training.figures import learning_curve
from lfm_tasks.training.loop import Training


def measurements(training: Training) -> dict[str, float]:
    progress = training.progress
    losses = [entry["loss"] for entry in progress.history if "loss" in entry]
    validation = [entry["validation_loss"] for entry in progress.history if "validation_loss" in entry]
    metrics = training.counts | {
        "train_loss_first": losses[0],
        "train_loss_final": losses[-1],
        "tokens_seen": progress.tokens,
        "tokens_per_second_mean": progress.tokens / max(training.seconds, 1e-9),
        "peak_memory_bytes": peak_memory(training.device),
    }
    if validation:
        metrics |= {"validation_loss_final": validation[-1], "validation_loss_best": min(validation)}
    return {name: float(value) for name, value in metrics.items()}


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it is a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_rss_bytes()


def history_figures(training: Training, directory: Path) -> tuple[Path, ...]:
    directory.mkdir(parents=True, exist_ok=True)
    history = directory / "history.json"
    history.write_text(json.dumps(training.progress.history, indent=1))
    curve = directory / "learning_curve.png"
    learning_curve(training.progress.history, training.progress.best_step, curve)
    return curve, history
