"""The diagonal of the Fisher information (Matena and Raffel 2021): mean squared gradients of log p(y|x), by four estimators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.resuming import below, copy_in_place, kept, under
from lfm_tasks.seeds import derive_seed
from lfm_tasks.statistics.config import FisherInformationConfig
from lfm_tasks.statistics.subject import Gathered, Subject


class Squares:
    """A running sum of squared gradients, in place; rows go through the model one by one, so that none is mixed with another.

    It goes on from what a stopped attempt of the same job has added up.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject, self.done = subject, 0
        named = dict(subject.model.named_parameters(remove_duplicate=False))
        self.parameters = {name: parameter for name, parameter in named.items() if name in subject.stored}
        self.sums = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        if before := kept(subject.context):
            self.done = int(before["rows"])
            copy_in_place(self.sums, below(before, "sum"))
            subject.context.log(f"Resumed: {self.done} of {len(subject.rows)} rows were seen before.")

    def report(self, rows: int) -> None:
        """``rows`` more are added. Raises :class:`AttemptKilled` after a checkpoint once a stop was asked for."""
        self.done += rows
        self.subject.report(self.done, lambda: {"rows": torch.tensor(self.done)} | under(self.sums, "sum"))

    def gradient(self, value: Tensor, more: bool = False) -> list[Tensor]:
        """``more``: another gradient through the same graph follows."""
        parameters = list(self.parameters.values())
        return list(torch.autograd.grad(value, parameters, retain_graph=more, materialize_grads=True, allow_unused=True))

    def add(self, gradient: list[Tensor], weight: float = 1.0) -> None:
        for total, one in zip(self.sums.values(), gradient, strict=True):
            total.addcmul_(one, one, value=weight)


def fisher_information(subject: Subject, options: FisherInformationConfig) -> Gathered:
    """Of each parameter's shape; divided by the number of rows."""
    squares = Squares(subject)
    ESTIMATORS[options.estimator](subject, squares)
    means = {name: total / len(subject.rows) for name, total in squares.sums.items()}
    return Gathered(means, {name: {"stored_as": name} for name in means})


def true(subject: Subject, squares: Squares) -> None:
    """sum_c p_c (d log p_c)^2 of each row. As sum_c p_c d log p_c = 0, the likeliest class needs no gradient of its own."""
    _classes(subject, "true")

    def add(place: int) -> None:
        log_p = subject.answers(place)[0][0].log_softmax(-1)
        p, likeliest = log_p.detach().exp().tolist(), int(log_p.argmax())
        rest = [torch.zeros_like(parameter) for parameter in squares.parameters.values()]
        for label in [label for label in range(len(p)) if label != likeliest]:
            gradient = squares.gradient(log_p[label], more=True)
            squares.add(gradient, p[label])
            torch._foreach_add_(rest, gradient, alpha=p[label])
        squares.add(rest, 1 / p[likeliest])

    _each_row(subject, squares, add)


def sampled(subject: Subject, squares: Squares) -> None:
    """The squared gradient of labels that are drawn from the model: right on average, at one gradient a row."""

    def add(place: int) -> None:
        log_p = subject.answers(place)[0].log_softmax(-1)
        generator = torch.Generator().manual_seed(derive_seed(subject.config.seed, "labels", subject.rows.sample_id[place]))
        drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(log_p.device)
        squares.add(squares.gradient(log_p.gather(1, drawn).sum()))

    _each_row(subject, squares, add)


def empirical(subject: Subject, squares: Squares) -> None:
    """The squared gradient of the rows' own labels."""

    def add(place: int) -> None:
        logits, labels = subject.answers(place)
        squares.add(squares.gradient(logits.log_softmax(-1).gather(1, labels[:, None]).sum()))

    _each_row(subject, squares, add)


def sum_batch(subject: Subject, squares: Squares) -> None:
    """(d sum_rows sum_c sqrt(p_c) log p_c)^2 of each batch: what MergeLM and FusionBench compute; it mixes rows and classes."""
    _classes(subject, "sum_batch")
    for batch in subject.padded_batches(squares.done):
        log_p = subject.model(**batch).logits.log_softmax(-1)
        squares.add(squares.gradient((log_p.detach().exp().sqrt() * log_p).sum()))
        squares.report(len(log_p))


ESTIMATORS = {"true": true, "sampled": sampled, "empirical": empirical, "sum_batch": sum_batch}


def _each_row(subject: Subject, squares: Squares, add: Callable[[int], None]) -> None:
    for place in range(squares.done, len(subject.rows)):
        add(place)
        squares.report(1)


def _classes(subject: Subject, estimator: str) -> None:
    if subject.rows.task != "classification":
        raise ConfigError(
            f"estimator={estimator} goes over all classes, and the rows are of the task {subject.rows.task}, whose classes are the whole "
            "vocabulary. Choose estimator=sampled or empirical."
        )
