"""First-order meta-gradients: how to move a start so that a few steps from it lead farther."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

Loss = Callable[[], Tensor]


def adapt(optimizer: Optimizer, loss: Loss, steps: int) -> None:
    """Inner steps, in place, on what the optimiser holds."""
    for _ in range(steps):
        step_down(optimizer, loss())


def step_down(optimizer: Optimizer, loss: Tensor) -> None:
    """A step on what the optimiser holds; nothing else that the loss depends on, the student say, gets a gradient."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    follow(optimizer, parameters, gradients)


def follow(optimizer: Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """A step along gradients that were found otherwise."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def fomaml(adapted: Sequence[Tensor], loss: Loss) -> list[Tensor]:
    """The gradient where the inner steps ended (Finn et al. 2017, first order): one, not the sum of those on the way."""
    return list(torch.autograd.grad(loss(), adapted))


def reptile(start: Sequence[Tensor], adapted: Sequence[Tensor]) -> list[Tensor]:
    """Start less end (Nichol et al. 2018): a step of rate e down it goes the share e of the way, whatever the inner optimiser."""
    return [(a - b).detach() for a, b in zip(start, adapted, strict=True)]
