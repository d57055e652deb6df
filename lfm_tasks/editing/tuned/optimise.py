"""Adam on a few tensors, until the facts are learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lfm_tasks.errors import NonFiniteLoss
from lfm_tasks.step import StepContext


class Schedule(Protocol):
    steps: int
    learning_rate: float
    enough: float


def minimise(
    tensors: Sequence[Tensor],
    losses: Callable[[], Tensor],
    options: Schedule,
    context: StepContext,
    project: Callable[[], None] = lambda: None,
) -> int:
    """Steps taken until the mean of ``losses()`` [facts] is below ``enough``; after each step ``project`` may move the tensors.

    Raises :class:`NonFiniteLoss`, and :class:`AttemptKilled` once a stop was asked for.
    """
    adam = torch.optim.Adam(tensors, lr=options.learning_rate)
    for step in range(options.steps):
        loss = losses().mean()
        if not loss.isfinite():
            raise NonFiniteLoss(f"Step {step}: the loss is {loss.item()}. Take a smaller learning_rate than {options.learning_rate}.")
        if loss.item() < options.enough:
            return step
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            project()
        context.report(step + 1, options.steps, {"edit_loss": loss.item()})
    return options.steps
