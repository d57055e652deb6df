"""Long passes that a stop does not cost: their state, as named tensors, is kept, and the same job goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from lfm_tasks.errors import AttemptKilled
from lfm_tasks.step import StepContext

STATE = "state.safetensors"
State = Callable[[], Mapping[str, Tensor]]
"""All that the rest of the pass depends on, borrowed."""


def report(
    context: StepContext, done: int, total: int, state: State, metrics: Mapping[str, float] | None = None, *, every: int = 0, what: str
) -> None:
    """Progress, and a checkpoint every so many units (0: none). Raises :class:`AttemptKilled` after a checkpoint once a stop was asked for.

    ``what`` the units are called.
    """
    if every and done % every == 0:
        keep(context, done, state())
    try:
        context.report(done, total, metrics)
    except AttemptKilled as killed:
        keep(context, done, state())
        raise AttemptKilled(f"{killed} {done} {what} are kept; the same job goes on from there.") from None


def poll(context: StepContext, done: int, state: State, *, what: str) -> None:
    """As :func:`report` for what has no known end, and so no progress."""
    if context.stop_requested():
        keep(context, done, state())
        raise AttemptKilled(f"Stopped on request. {done} {what} are kept; the same job goes on from there.")


def keep(context: StepContext, done: int, state: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    context.checkpoints.save(done, lambda path: save_file(plain, path / STATE))


def kept(context: StepContext) -> dict[str, Tensor]:
    """The state in the job's newest checkpoint; empty where there is none."""
    latest = context.checkpoints.latest()
    return load_file(latest / STATE) if latest is not None and (latest / STATE).is_file() else {}


def below(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What is named ``<name>/…``, without that."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in state.items() if key.startswith(f"{name}/")}


def under(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The same named ``<name>/…``."""
    return {f"{name}/{key}": tensor for key, tensor in state.items()}


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {f"{i}/{key}": value for i, parameter in enumerate(parameters) for key, value in optimizer.state.get(parameter, {}).items()}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.state.clear()
    for key, value in state.items():
        place, name = key.split("/")
        optimizer.state[parameters[int(place)]][name] = value.clone()


def copy_in_place(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])
