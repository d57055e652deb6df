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
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()


def fomaml(adapted: Sequence[Tensor], loss: Loss) -> list[Tensor]:
    """The gradient where the inner steps ended (Finn et al. 2017, first order): one, not the sum of those on the way."""
    return list(torch.autograd.grad(loss(), adapted))


def reptile(start: Sequence[Tensor], adapted: Sequence[Tensor]) -> list[Tensor]:
    """Start less end (Nichol et al. 2018): a step of rate e down it goes the share e of the way, whatever the inner optimiser."""
    return [(a - b).detach() for a, b in zip(start, adapted, strict=True)]
