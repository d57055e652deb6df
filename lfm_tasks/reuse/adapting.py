"""Learning without labels, step by step: watched, reported, kept and resumed. What a step does is its stage's affair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from lfm_tasks.models.forward import Batch
from lfm_tasks.models.resuming import below, under
from lfm_tasks.reuse.entropy import Collapse, Drift, Look, Watch, entropy
from lfm_tasks.reuse.figures import draw_coefficients, draw_losses
from lfm_tasks.reuse.learning import Learning, Learnt
from lfm_tasks.reuse.merged import Merged
from lfm_tasks.reuse.methods.config import AdaptationConfig
from lfm_tasks.reuse.tasks import Task
from lfm_tasks.seeds import derive_seed


class Stage(Protocol):
    """Something that is learnt, while all else stands still."""

    name: str
    steps: int

    def step(self, number: int) -> list[float]:
        """The step after ``number`` others; returns each task's mean entropy before it."""

    def settle(self) -> None:
        """Make the merged model what it would be if the learning ended now."""

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, borrowed."""

    def load(self, state: Mapping[str, Tensor]) -> None: ...


class Adaptation:
    """Runs the stages one after another."""

    def __init__(self, stages: Sequence[Stage], merged: Merged, learning: Learning, options: AdaptationConfig) -> None:
        self.stages, self.merged, self.learning, self.options = stages, merged, learning, options
        self.steps, self.done, self.ended = sum(stage.steps for stage in stages), 0, False
        self.watch = Watch(learning.tasks)
        self.losses: list[list[float]] = []
        self.looks: list[tuple[int, list[Look]]] = []
        self.sound: dict[str, Tensor] = {}
        """State of the current stage when no task had collapsed or drifted."""

    def run(self) -> None:
        """Raises :class:`AttemptKilled` after a checkpoint when a stop was asked for."""
        self._resume()
        if not self.looks:
            self.stages[0].settle()
            self._look()
        for stage, number in self._left():
            if number == 0 and self.options.on_collapse == "revert":
                self.sound = _copied(stage.state())
            self.losses.append(stage.step(number))
            self.done += 1
            if number + 1 == stage.steps or self.done % self.options.check_every == 0:
                self._guard(stage)
            self._report()
        self.stages[-1].settle()
        self.learning.keep(self.steps, self.state())

    def _left(self) -> Iterator[tuple[Stage, int]]:
        """The steps still to do, each as its stage and its number there."""
        before = 0
        for stage in self.stages:
            while not self.ended and self.done < before + stage.steps:
                yield stage, self.done - before
            before += stage.steps

    def _guard(self, stage: Stage) -> None:
        stage.settle()
        self._look()
        found, reaction = self.signs(), self.options.on_collapse
        for sign in found:
            self.learning.context.log(f"Warning: {sign}")
        if not found and reaction == "revert":
            self.sound = _copied(stage.state())
        if found and reaction != "warn":
            self.ended = True
            if reaction == "revert":
                stage.load(self.sound)
                stage.settle()
                self._look()
            self.learning.context.log(f"The learning ends at step {self.done} of {self.steps} (on_collapse={reaction}).")

    def _look(self) -> None:
        self.looks.append((self.done, self.watch.look(self.merged.given)))

    def signs(self) -> list[Collapse | Drift]:
        """As the last look saw them."""
        (_, start), (step, now) = self.looks[0], self.looks[-1]
        return [*self.watch.collapses(step, start, now), *self.watch.drifts(step, start, now)]

    def _report(self) -> None:
        losses = self.losses[-1]
        measured = {f"entropy/models.{place}": loss for place, loss in enumerate(losses)} | {"loss": sum(losses)}
        self.learning.report(self.done, self.steps, measured, self.state)

    def state(self) -> dict[str, Tensor]:
        looks = [[step, *(value for look in seen for value in asdict(look).values())] for step, seen in self.looks]
        state = {
            "progress": torch.tensor([self.done, self.ended]),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "looks": torch.tensor(looks, dtype=torch.float64),
        }
        for stage in self.stages:
            state |= under(stage.state(), stage.name)
        return state | under(self.sound, "sound")

    def _resume(self) -> None:
        state = self.learning.kept()
        if not state:
            return
        done, ended = state["progress"].tolist()
        self.done, self.ended = done, bool(ended)
        self.losses = state["losses"].tolist()
        self.looks = [(int(step), [Look(*part) for part in _parts(values, 4)]) for step, *values in state["looks"].tolist()]
        for stage in self.stages:
            stage.load(below(state, stage.name))
        self.sound = below(state, "sound")
        self.learning.context.log(f"Resumed: {self.done} of {self.steps} steps of learning were done before.")

    def learnt(self, tensors: Mapping[str, Tensor], coefficients: Tensor | None = None) -> Learnt:
        """With metrics, warnings and pictures; ``coefficients`` [tensors or 1, models] where some were learnt."""
        (_, first), (_, last) = self.looks[0], self.looks[-1]
        signs = self.signs()
        collapsed = sum(isinstance(one, Collapse) for one in signs)
        metrics = {
            "learning_steps": float(self.done),
            "collapsed_tasks": float(collapsed),
            "drifted_tasks": float(len(signs) - collapsed),
        }
        for when, seen in (("start", first), ("end", last)):
            for place, look in enumerate(seen):
                metrics |= {f"{name}_{when}/models.{place}": value for name, value in asdict(look).items()}
        summary = {"learning_steps": self.done, "warnings": [one.summary() for one in signs]}
        return Learnt(tensors, self.steps, self.state(), metrics, {"learning": summary}, tuple(self._figures(coefficients)))

    def _figures(self, coefficients: Tensor | None) -> Iterator[Any]:
        directory = self.learning.context.workdir / "figures"
        directory.mkdir(parents=True, exist_ok=True)
        names = [task.name for task in self.learning.tasks]
        yield draw_losses(self.losses, names, directory / "learning.png")
        if coefficients is not None:
            tensors = self.merged.names if len(coefficients) > 1 else ["all tensors"]
            yield draw_coefficients(coefficients, tensors, names, directory / "coefficients.png")
            table = directory / "coefficients.json"
            rows = dict(zip(tensors, coefficients.tolist(), strict=True))
            table.write_text(json.dumps({"models": names, "coefficients": rows}, indent=1))
            yield table


def batches(tasks: Sequence[Task], batch_size: int, seed: int, purpose: str, first: int) -> Iterator[list[Batch]]:
    """A batch of every task for each step from ``first`` on."""
    streams = [islice(task.stream(batch_size, derive_seed(seed, purpose)), first, None) for task in tasks]
    return map(list, zip(*streams, strict=True))


def descend(merged: Merged, tasks: Sequence[Task], drawn: Sequence[Batch]) -> list[float]:
    """Add up at the merged tensors the gradient of sum_t mean H(softmax(logits_t)); returns each task's mean entropy."""
    losses = []
    for task, batch in zip(tasks, drawn, strict=True):
        loss = entropy(task.logits(merged.given, batch)).mean()
        loss.backward()
        losses.append(float(loss.detach()))
    return losses


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in state.items()}


def _parts(values: Sequence[float], size: int) -> Iterator[Sequence[float]]:
    return (values[start : start + size] for start in range(0, len(values), size))
