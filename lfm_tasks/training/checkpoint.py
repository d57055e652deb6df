"""A checkpoint of a run: trained parameters, Adam's moments, progress. Safetensors and JSON, nothing else.

Exact: what :func:`load` restores has the bits that :func:`save` saw.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a run has come. ``step`` counts finished optimiser steps; ``evaluated`` is the step of the newest evaluation."""

    step: int = 0
    tokens: int = 0
    evaluated: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped_early: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def save(
    directory: Path,
    parameters: dict[str, Tensor],
    optimizer: Optimizer,
    progress: Progress,
    best: dict[str, Tensor],
    objective: dict[str, Tensor],
    identity: Any,
) -> None:
    """Write everything that the rest of the run depends on: ``objective`` is what the loss keeps from step to step, ``identity`` says
    which run it is (plain JSON)."""
    save_file(_plain(parameters), directory / "parameters.safetensors")
    moments = {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for moment in MOMENTS
    }
    save_file(_plain(moments), directory / "optimizer.safetensors")
    for name, tensors in (("best", best), ("objective", objective)):
        if tensors:
            save_file(_plain(tensors), directory / f"{name}.safetensors")
    (directory / "progress.json").write_text(json.dumps({"identity": identity, "progress": asdict(progress)}))


def load(
    directory: Path, parameters: dict[str, Tensor], optimizer: Optimizer, identity: Any
) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]] | None:
    """Restore parameters and moments in place; return the progress, the best weights, and what the objective kept. None: the
    checkpoint is another run's."""
    content = json.loads((directory / "progress.json").read_text())
    if content["identity"] != identity:
        return None
    saved = load_file(directory / "parameters.safetensors")
    moments = load_file(directory / "optimizer.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
            if f"{name}.step" in moments:
                optimizer.state[parameter] = {moment: _placed(moments[f"{name}.{moment}"], parameter) for moment in MOMENTS}
    best, objective = (directory / f"{name}.safetensors" for name in ("best", "objective"))
    return Progress(**content["progress"]), *(load_file(one) if one.is_file() else {} for one in (best, objective))


def _placed(moment: Tensor, parameter: Tensor) -> Tensor:
    return moment.to(parameter.device)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
