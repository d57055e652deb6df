"""Paths between two models in the space of their weights, the loss along them, and the barrier.

Linear: (1-a) A + a B. Quadratic Bezier (Garipov et al. 2018): (1-a)^2 A + 2a(1-a) M + a^2 B with a trained middle M.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lfm_tasks.errors import NonFiniteLoss
from lfm_tasks.models.resuming import State, below, copy_in_place, load_optimizer_state, optimizer_state, under
from lfm_tasks.seeds import derive_seed

Weights = Mapping[str, Tensor]
Batch = Any
Loss = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
"""``(losses, right)`` of a batch's targets, one element for each."""
Path = Callable[[float], Weights]


@dataclass(frozen=True)
class Point:
    a: float
    loss: float
    accuracy: float


def line(a: Weights, b: Weights) -> Path:
    return lambda t: {name: _mix((1 - t, a[name]), (t, b[name])) for name in a}


def bezier(a: Weights, middle: Weights, b: Weights) -> Path:
    def at(t: float) -> Weights:
        ends = {name: tensor for name, tensor in a.items() if name not in middle}
        bent = {name: _mix(((1 - t) ** 2, a[name]), (2 * t * (1 - t), middle[name]), (t**2, b[name])) for name in middle}
        return bent | line(ends, b)(t)

    return at


def _mix(*parts: tuple[float, Tensor]) -> Tensor:
    """Whole numbers (counters) are the first's."""
    if not parts[0][1].is_floating_point():
        return parts[0][1]
    return sum(share * tensor for share, tensor in parts if share != 0)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and buffers, tied ones once."""
    return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def put(model: nn.Module, weights: Weights) -> None:
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in weights.items():
            places[name].copy_(tensor)


def measure(
    model: nn.Module, path: Path, places: Sequence[float], loss: Loss, batches: Sequence[Batch], train: Sequence[Batch]
) -> Iterator[Point]:
    """Each place of the path in turn. The statistics of batch normalisation are taken anew there, from ``train``."""
    for a in places:
        put(model, path(a))
        reestimate(model, loss, train)
        with torch.no_grad():
            losses, right = zip(*(loss(model, batch) for batch in batches), strict=True)
        yield Point(a, float(torch.cat(losses).double().mean()), float(torch.cat(right).double().mean()))


def barrier(points: Sequence[Point]) -> tuple[float, float]:
    """``(height, a)`` of the largest rise of the loss above the line between the losses of the ends (Frankle et al. 2020); 0 at least."""
    first, last = points[0].loss, points[-1].loss
    return max((point.loss - (1 - point.a) * first - point.a * last, point.a) for point in points)


def normalisations(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def reestimate(model: nn.Module, loss: Loss, batches: Iterable[Batch]) -> None:
    """Set running means and variances to their averages over ``batches`` (as REPAIR does: Jordan et al. 2023); no-op without any."""
    modules = normalisations(model)
    if not modules:
        return
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.reset_running_stats()
        module.momentum = None
        module.train()
    with torch.no_grad():
        for batch in batches:
            loss(model, batch)
    for module, momentum in zip(modules, momenta, strict=True):
        module.momentum = momentum
        module.eval()


def train_bezier(
    model: nn.Module,
    a: Weights,
    b: Weights,
    loss: Loss,
    batches: Iterator[Batch],
    steps: int,
    learning_rate: float,
    seed: int,
    report: Callable[[float, State], None] = lambda loss, state: None,
    before: Weights | None = None,
) -> dict[str, Tensor]:
    """The middle of the curve, from the line's, by Adam on the loss at places drawn evenly from 0 to 1.

    ``report`` is told each step's loss, and how to have the state that ``before`` takes: the training goes on from there. Raises
    :class:`NonFiniteLoss`. Batch normalisation works on its batches meanwhile.
    """
    parameters = dict(model.named_parameters())
    middle = {name: nn.Parameter(((a[name] + b[name]) / 2).clone()) for name in parameters}
    optimizer = torch.optim.Adam(middle.values(), lr=learning_rate)
    done = 0
    if before:
        done = int(before["step"])
        copy_in_place(middle, below(before, "middle"))
        load_optimizer_state(optimizer, below(before, "adam"))
    for module in normalisations(model):
        module.train()
    batches = islice(batches, done, None)
    for step in range(done, steps):
        t = float(np.random.default_rng(derive_seed(seed, "bezier", step)).uniform())
        put(model, {name: tensor.detach() for name, tensor in bezier(a, middle, b)(t).items() if name in parameters})
        model.zero_grad(set_to_none=True)
        value = loss(model, next(batches))[0].mean()
        reached = float(value.detach())
        if not math.isfinite(reached):
            raise NonFiniteLoss(f"The loss on the curve is {reached} at step {step}. Choose a smaller learning_rate than {learning_rate}.")
        value.backward()
        for name, parameter in parameters.items():
            middle[name].grad = None if parameter.grad is None else 2 * t * (1 - t) * parameter.grad
        optimizer.step()
        now = {"step": torch.tensor(step + 1)} | under(middle, "middle") | under(optimizer_state(optimizer), "adam")
        report(reached, lambda now=now: now)
    for module in normalisations(model):
        module.eval()
    return {name: tensor.detach() for name, tensor in middle.items()}
