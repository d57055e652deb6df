"""Rounds: a synthesiser makes images, the teacher answers, the student learns; the best of its states is chosen without data."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses
from lfm_tasks.distillation.data_free.config import DistillDataFreeConfig, SynthesisConfig
from lfm_tasks.distillation.data_free.pool import Pool
from lfm_tasks.distillation.data_free.synthesis import Synthesiser
from lfm_tasks.distillation.data_free.teachers import Teacher
from lfm_tasks.errors import BudgetSpent, NonFiniteLoss
from lfm_tasks.models import resuming
from lfm_tasks.models.resuming import below, under
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import StepContext

HELD_OUT_SHARE = 8
"""One of so many of a round's images is kept apart."""
WHAT = "rounds"


@dataclass
class Learning:
    """``round`` counts those that are done; ``selected`` is the one whose student is the best so far (0: none was compared yet)."""

    config: DistillDataFreeConfig
    options: SynthesisConfig
    teacher: Teacher
    student: nn.Module
    synthesiser: Synthesiser
    context: StepContext
    round: int = 0
    selected: int = 0
    cpu_seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """Students along the run, by the round after which they were copied."""
    history: list[tuple[float, ...]] = field(default_factory=list)
    """(round, mean loss, agreement of the student, of the best, queries) at each comparison."""

    def __post_init__(self) -> None:
        config, parameters = self.config, list(self.student.parameters())
        self.pool = Pool(config.pool_size, config.seed, "pool")
        self.held_out = Pool(config.held_out, config.seed, "held out")
        if config.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)
        else:
            self.optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._began = time.process_time()

    def run(self) -> None:
        """All rounds, or those that the query budget pays for. Raises :class:`BudgetSpent` where that is none."""
        self._resume()
        rounds, loss = self.options.rounds, math.nan
        while self.round < rounds:
            try:
                images = self.synthesiser.make(self.round)
                answers = self.teacher.answers(images)
            except BudgetSpent as spent:
                if not self.round:
                    raise
                self.context.log(f"The learning ends after round {self.round} of {rounds}: {spent}")
                break
            loss = self._learn(images, answers)
            self.round, self._asked = self.round + 1, self.teacher.meter.asked
            if self.round in self._kept_rounds():
                self.kept[self.round] = copied(self.student)
            if self.round % self.config.evaluate_every == 0:
                self._compare(loss)
            self._report(loss)
        if not self.history or self.history[-1][0] != self.round:
            self._compare(loss)
        if self.round not in self.kept:
            self.kept[self.round] = copied(self.student)

    def _learn(self, images: Tensor, answers: Tensor) -> float:
        """The student's steps of a round; their mean loss."""
        config, options = self.config, self.options
        apart = len(images) // HELD_OUT_SHARE
        self.held_out.add(images[:apart], answers[:apart])
        images, answers = images[apart:], answers[apart:]
        self.pool.add(images, answers)
        old, total = round(options.replay * config.batch_size), 0.0
        self.student.train()
        for step in range(options.student_steps):
            random = torch.Generator().manual_seed(derive_seed(config.seed, "batch", self.round, step))
            own = torch.randint(len(images), (config.batch_size - old,), generator=random)
            drawn = self.pool.draw(old, random)
            batch, wanted = torch.cat([images[own], drawn[0]]), torch.cat([answers[own], drawn[1]])
            with torch.random.fork_rng():
                torch.manual_seed(derive_seed(config.seed, "dropout", self.round, step))
                loss = self._loss(self.student(pixel_values=batch).logits, wanted)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(step)
            self.optimizer.step()
            total += loss.item()
        if not math.isfinite(total):
            raise NonFiniteLoss(f"Round {self.round + 1}: the student's loss is {total}. Lower learning_rate ({config.learning_rate}).")
        return total / options.student_steps

    def _loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        if self.teacher.gives == "labels":
            return functional.cross_entropy(logits, wanted)
        if self.config.loss == "l1":
            return losses.logit_distance(logits, wanted)
        return losses.distillation(logits, wanted, self.config.temperature)

    def _rate(self, step: int) -> float:
        done = (self.round * self.options.student_steps + step) / (self.options.rounds * self.options.student_steps)
        return self.config.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def _compare(self, loss: float) -> None:
        """The student against the best so far, on the same held-out images; the newer one where they are equal."""
        now = agreement(self.student, self.held_out)
        best = self._agreement_of(self.best) if self.best else -1.0
        if now >= best:
            self.best, self.selected = copied(self.student), self.round
        self.history.append((float(self.round), loss, now, max(now, best), float(self.teacher.meter.asked)))

    def _agreement_of(self, state: Mapping[str, Tensor]) -> float:
        current = copied(self.student)
        self.student.load_state_dict(state)
        found = agreement(self.student, self.held_out)
        self.student.load_state_dict(current)
        return found

    def _kept_rounds(self) -> set[int]:
        last = self.config.keep_last
        return {self.options.rounds * place // last for place in range(1, last + 1)} - {0}

    def poll(self) -> None:
        resuming.poll(self.context, self.round, self.state, what=WHAT)

    def _report(self, loss: float) -> None:
        measured = {"loss": loss, "teacher_queries": float(self.teacher.meter.asked)}
        if self.history:
            measured["agreement"] = self.history[-1][2]
        every, total = self.config.checkpoint_every, self.options.rounds
        resuming.report(self.context, self.round, total, self.state, measured, every=every, what=WHAT)

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on."""
        spent = self.cpu_seconds + time.process_time() - self._began
        counts = {"round": self.round, "selected": self.selected, "asked": self._asked}
        return {
            **{name: torch.tensor(value) for name, value in counts.items()},
            "cpu_seconds": torch.tensor(spent, dtype=torch.float64),
            "history": torch.tensor(self.history, dtype=torch.float64),
            **under(self.student.state_dict(), "student"),
            **under(resuming.optimizer_state(self.optimizer), "optimizer"),
            **under(self.best, "best"),
            **{f"kept/{place}/{name}": tensor for place, one in self.kept.items() for name, tensor in one.items()},
            **under(self.pool.state(), "pool"),
            **under(self.held_out.state(), "held_out"),
            **under(self.synthesiser.state(), "synthesiser"),
        }

    def _resume(self) -> None:
        state = resuming.kept(self.context)
        self._asked = 0
        if not state:
            return
        self.round, self.selected = int(state["round"]), int(state["selected"])
        self.teacher.meter.asked = self._asked = int(state["asked"])
        self.cpu_seconds = float(state["cpu_seconds"])
        self.history = [tuple(row) for row in state["history"].tolist()]
        self.student.load_state_dict(below(state, "student"))
        resuming.load_optimizer_state(self.optimizer, below(state, "optimizer"))
        self.best, kept = below(state, "best"), below(state, "kept")
        self.kept = {int(place): below(kept, place) for place in dict.fromkeys(name.partition("/")[0] for name in kept)}
        for pool, name in ((self.pool, "pool"), (self.held_out, "held_out")):
            pool.load(below(state, name))
        self.synthesiser.load(below(state, "synthesiser"))
        self.context.log(f"Resumed: {self.round} rounds were done before.")


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def agreement(student: nn.Module, held_out: Pool) -> float:
    """Share of the held-out images to which the student gives the teacher's class."""
    student.eval()
    found = torch.cat([student(pixel_values=images).logits.argmax(-1) for images in held_out.images.split(256)])
    return (found == held_out.answers.argmax(-1)).float().mean().item()
