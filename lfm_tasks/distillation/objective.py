"""What a student learns from: alpha times its distance from the teachers, and 1 - alpha times cross-entropy with the labels.

Both are sums over the targets of a pass; the loop divides by the number of targets of the whole optimiser step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from lfm_tasks.distillation.across.answered import Answered
from lfm_tasks.distillation.across.pairs import Across
from lfm_tasks.distillation.config import DistillConfig
from lfm_tasks.distillation.divergences import log_probabilities
from lfm_tasks.distillation.sequences.writing import Step, Writing
from lfm_tasks.distillation.signals import Signal
from lfm_tasks.distillation.stored import Recorded
from lfm_tasks.distillation.teachers import LogitTeacher
from lfm_tasks.errors import ConfigError
from lfm_tasks.models.attention import logits_at
from lfm_tasks.models.heads import chunk_rows, chunked_sum, has_plain_head, hidden_at
from lfm_tasks.training.batches import Batch
from lfm_tasks.training.objectives import CrossEntropy
from lfm_tasks.training.split import Split


class Answer(Protocol):
    """A teacher's word on a batch: places in the order of its targets."""

    def __getitem__(self, rows: slice) -> Signal: ...


@dataclass(frozen=True)
class Setting:
    """What a method makes its objective of. ``vocabulary``: tokens, or classes, that student and teacher share."""

    config: DistillConfig
    student: PreTrainedModel
    sources: Sequence[LogitTeacher | Recorded]
    labels: bool
    vocabulary: int
    writing: Writing | None = None
    """Writes some of the rows in the student's own words."""
    across: Across | None = None
    """The rows in the teacher's tokens too, for the methods that need them."""
    answered: Sequence[Answered] = ()
    """Teachers behind APIs, whose answers are the rows' completions."""


class Distance(Protocol):
    """What :class:`LogitDistillation` asks of a method (:class:`lfm_tasks.distillation.methods.logits.LogitMethod`)."""

    forms: tuple[str, ...]
    of_logits: bool
    whole_steps: bool

    def loss(self, log_q: Tensor, log_p: Tensor, targets: Tensor, options: Any, temperature: float) -> Tensor: ...


class LogitDistillation(CrossEntropy):
    def __init__(self, method: Distance, setting: Setting) -> None:
        """Raises :class:`ConfigError` where the method cannot be asked about signals of their form."""
        super().__init__(labels=setting.labels)
        self.method, self.setting, self.config = method, setting, setting.config
        self.options = setting.config.method_config()
        self.weight = self.config.alpha
        """Of the distance between what student and teachers say."""
        self.sources = setting.sources if self.config.alpha else ()
        self.whole_steps = method.whole_steps and bool(self.sources)
        self.packs = all(teacher.packs for teacher in self.teachers)
        self.step: Step | None = None
        self.plain = not self.labels and has_plain_head(setting.student)
        for source in self.sources:
            if isinstance(source, Recorded) and (form := source.stored.form) not in method.forms:
                raise ConfigError(
                    f"{self.config.method} needs {' or '.join(method.forms)} signals; {source.stored.reference} is {form}. "
                    "Give the teacher itself, or record its signals in another form."
                )
        if self.config.combine == "instance" and any(isinstance(one, Recorded) and one.stored.form == "sampled" for one in self.sources):
            raise ConfigError("combine=instance asks how likely a teacher finds the label, which samples do not say. Use top_k signals.")

    @property
    def teachers(self) -> list[LogitTeacher]:
        return [source for source in self.sources if isinstance(source, LogitTeacher)]

    def rows(self, split: Split, examples: Sequence[int], step: int) -> tuple[Split, Sequence[int]]:
        if self.setting.writing is None:
            return split, examples
        self.step = self.setting.writing.step(split, examples, step)
        return self.step.rows, range(len(examples))

    def validated(self, loss: float) -> None:
        if self.setting.writing is not None:
            self.setting.writing.validated(loss)

    def state(self) -> dict[str, Tensor]:
        return self.setting.writing.state() if self.setting.writing is not None else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.setting.writing.restore(state)

    def written(self, batch: Batch) -> Tensor | None:
        """[n] True at the targets that the student wrote itself, in the order of the batch's targets; None where there is none."""
        if self.step is None or not self.step.written[list(batch.examples)].any():
            return None
        counts = [len(self.step.rows.tokens[row]) - int(self.step.rows.first[row]) for row in batch.examples]
        return torch.from_numpy(np.repeat(self.step.written[list(batch.examples)], counts)).to(batch.targets.device)

    def modes(self) -> AbstractContextManager[None]:
        return together([teacher.modes() for teacher in self.teachers] if not self.labels else [])

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        answers = [source.ask(batch, self.config.temperature) for source in self.sources] if self.weight else []
        if self.labels:
            return self._sum(model(**batch.inputs).logits, batch.targets, [answer[:] for answer in answers])
        return self._sum_over_places(model, batch, answers)

    def _sum_over_places(self, model: nn.Module, batch: Batch, answers: Sequence[Answer]) -> Tensor:
        written = self.written(batch)

        def loss(logits: Tensor, rows: slice) -> Tensor:
            own = written[rows] if written is not None else None
            return self._sum(logits, batch.targets[rows], [answer[rows] for answer in answers], own)

        if not self.plain or self.whole_steps:
            with logits_at(model, batch.positions):
                return loss(model(**batch.inputs, use_cache=False).logits[0], slice(None))
        with hidden_at(model, batch.positions):
            hidden = model(**batch.inputs, use_cache=False).logits[0]
        head = model.get_output_embeddings()
        return chunked_sum(loss, hidden, head, chunk_rows(head.weight.shape[0]))

    def _sum(self, logits: Tensor, targets: Tensor, signals: Sequence[Signal], written: Tensor | None = None) -> Tensor:
        """Of places whose ``logits`` are [n, classes]. What the student has ``written`` itself is no label."""
        alpha = self.config.alpha
        total = torch.zeros((), device=logits.device)
        if signals:
            total = self.weight * self.distances(logits, targets, signals).sum()
        if alpha < 1:
            losses = functional.cross_entropy(logits.float(), targets, reduction="none")
            total = total + (1 - alpha) * (losses if written is None else losses[~written]).sum()
        return total

    def distances(self, logits: Tensor, targets: Tensor, signals: Sequence[Signal]) -> Tensor:
        """[n]: the mean over the teachers, weighted."""
        temperature = self.config.temperature
        log_q = log_probabilities(logits[..., : self.setting.vocabulary] if self.method.of_logits else logits, temperature)

        def kernel(log_q: Tensor, log_p: Tensor, targets: Tensor) -> Tensor:
            return self.method.loss(log_q, log_p, targets, self.options, temperature)

        found = torch.stack([_scaled_samples(signal, temperature) * signal.distance(log_q, targets, kernel) for signal in signals])
        return (weights(signals, targets, self.config.combine) * found).sum(0)


def weights(signals: Sequence[Signal], targets: Tensor, combine: str) -> Tensor:
    """Of each teacher at each place, [teachers, n] or [teachers, 1], their sum over the teachers 1.

    mean: equal. confidence: as exp(-entropy). instance: (1 - softmax over the teachers of their cross-entropy with the
    label) / (teachers - 1), of Zhang et al. 2022, CA-MKD (arXiv 2201.00007), equation 3.
    """
    count = len(signals)
    if combine == "mean" or count == 1:
        return torch.full((count, 1), 1 / count, device=targets.device)
    if combine == "confidence":
        return torch.softmax(-torch.stack([signal.entropy() for signal in signals]), 0)
    losses = -torch.stack([signal.log_target(targets) for signal in signals])
    return (1 - torch.softmax(losses, 0)) / (count - 1)


def _scaled_samples(signal: Signal, temperature: float) -> float:
    """What no kernel is asked about has no square of the temperature yet."""
    return temperature**2 if signal.form == "sampled" else 1.0


@contextmanager
def together(contexts: Sequence[AbstractContextManager[None]]) -> Iterator[None]:
    """All of them, entered in their order."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield
