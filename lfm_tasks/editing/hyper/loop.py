"""Training with looks at what is held out: the best state is kept, and a stop costs no step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lfm_tasks.errors import NonFiniteLoss
from lfm_tasks.models.resuming import below, copy_in_place, kept, load_optimizer_state, optimizer_state, report, under
from lfm_tasks.step import StepContext

CLIP = 1.0
"""Longest gradient of a step, over all parameters."""


class Schedule(Protocol):
    steps: int
    every: int
    patience: int


@dataclass(frozen=True)
class Look:
    step: int
    score: float
    """Mean loss on what is held out, weighted as in training: less is better."""
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Trained:
    looks: tuple[Look, ...]
    """The first is at what the training began with."""
    best: Look
    steps: int


def train(
    context: StepContext,
    groups: Sequence[tuple[float, Mapping[str, Tensor]]],
    learn: Callable[[int], Mapping[str, float]],
    look: Callable[[], tuple[float, Mapping[str, float]]],
    schedule: Schedule,
) -> Trained:
    """Adam on the parameters of ``groups``, each with its step size; afterwards they are those of the best look.

    ``learn(step)`` leaves the gradients of a step in them, ``look()`` gives a score and what it is made of. Raises
    :class:`NonFiniteLoss`, and :class:`~lfm_tasks.errors.AttemptKilled` once a stop was asked for: the same job then goes on.
    """
    parameters = {name: tensor for _, named in groups for name, tensor in named.items()}
    adam = torch.optim.Adam([{"params": list(named.values()), "lr": rate} for rate, named in groups])
    best, looks, done = {}, [], 0
    if state := kept(context):
        done = int(state["done"])
        copy_in_place(parameters, below(state, "now"))
        load_optimizer_state(adam, below(state, "adam"))
        best, looks = below(state, "best"), _read_looks(state)
        context.log(f"Resumed after step {done} of {schedule.steps}.")

    def everything() -> dict[str, Tensor]:
        return {
            "done": torch.tensor(done),
            **under(parameters, "now"),
            **under(best, "best"),
            **under(optimizer_state(adam), "adam"),
            **_looks_state(looks),
        }

    def seen() -> None:
        nonlocal best
        score, parts = look()
        if not looks or score < min(one.score for one in looks):
            best = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        looks.append(Look(done, score, dict(parts)))

    if not looks:
        seen()
    while done < schedule.steps and not _worn_out(looks, schedule.patience):
        adam.zero_grad()
        metrics = learn(done)
        length = torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP)
        if not bool(length.isfinite()):
            raise NonFiniteLoss(f"Step {done}: the gradient of the editor is not finite. Take a smaller learning_rate, step or step_rate.")
        adam.step()
        done += 1
        if done % schedule.every == 0 or done == schedule.steps:
            seen()
            metrics = {**metrics, **{f"held_out/{name}": value for name, value in looks[-1].parts.items()}}
        report(context, done, schedule.steps, everything, metrics, every=schedule.every, what="steps")
    copy_in_place(parameters, best)
    return Trained(tuple(looks), min(looks, key=lambda one: one.score), done)


def _worn_out(looks: list[Look], patience: int) -> bool:
    best = min(range(len(looks)), key=lambda place: looks[place].score)
    return 0 < patience <= len(looks) - 1 - best


def _looks_state(looks: list[Look]) -> dict[str, Tensor]:
    names = looks[0].parts if looks else ()
    values = {name: [one.parts[name] for one in looks] for name in names}
    state = {"step": torch.tensor([one.step for one in looks]), "score": torch.tensor([one.score for one in looks], dtype=torch.float64)}
    state |= {f"part/{name}": torch.tensor(found, dtype=torch.float64) for name, found in values.items()}
    return under(state, "looks")


def _read_looks(state: Mapping[str, Tensor]) -> list[Look]:
    found = below(state, "looks")
    steps, scores = found["step"].tolist(), found["score"].tolist()
    parts = {name: tensor.tolist() for name, tensor in below(found, "part").items()}
    return [Look(steps[at], scores[at], {name: values[at] for name, values in parts.items()}) for at in range(len(steps))]
