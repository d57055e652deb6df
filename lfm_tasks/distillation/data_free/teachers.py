"""The teacher as a method may see it: its logits with gradients, or answers alone; every image that it is asked about is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lfm_tasks.errors import BudgetSpent, IncompatibleModels
from lfm_tasks.registry import Access


@dataclass
class QueryMeter:
    """Counts the images that the teacher was asked about; ``budget`` 0 is no limit."""

    budget: int = 0
    asked: int = 0

    def take(self, images: int) -> None:
        """Before they are asked. Raises :class:`BudgetSpent`, and counts nothing, where they would be too many."""
        if self.budget and self.asked + images > self.budget:
            raise BudgetSpent(
                f"query_budget={self.budget}: {self.asked} images were asked about, and {images} more are too many. Raise it, or lower "
                "images and batch_size."
            )
        self.asked += images


class Teacher(Protocol):
    gives: Literal["logits", "probabilities", "labels"]
    meter: QueryMeter

    def answers(self, images: Tensor) -> Tensor:
        """[batch, classes] without gradient: logits; log-probabilities, which are logits too; or 1 at the label and 0 elsewhere."""


class WhiteBox:
    """A teacher whose logits have gradients by the images. Its own weights get none, and it stays in evaluation mode."""

    gives = "logits"

    def __init__(self, model: nn.Module, meter: QueryMeter) -> None:
        self.model, self.meter = model.eval().requires_grad_(False), meter

    def logits(self, images: Tensor) -> Tensor:
        self.meter.take(len(images))
        return self.model(pixel_values=images).logits

    def answers(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.logits(images)

    @contextmanager
    def features(self) -> Iterator[list[Tensor]]:
        """Inside the block the list holds, after each pass, what the layer that makes the logits was given, [batch, width]."""
        seen: list[Tensor] = []
        layer = _last_linear(self.model)

        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen[:] = [given[0].flatten(1)]

        with layer.register_forward_pre_hook(see):
            yield seen

    @property
    def width(self) -> int:
        """Of the features."""
        return _last_linear(self.model).in_features


def _last_linear(model: nn.Module) -> nn.Linear:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != model.config.num_labels:
        raise IncompatibleModels(
            f"The teacher {type(model).__name__} does not end in a linear layer of {model.config.num_labels} classes, whose input this "
            "method looks at. Take one of the methods cake, dfad, zeroth_order, ideal."
        )
    return layers[-1]


class BlackBox:
    """A teacher that answers and shows nothing else.

    ``ask`` maps images to probabilities [batch, classes].
    """

    def __init__(self, ask: Callable[[Tensor], Tensor], gives: Literal["probabilities", "labels"], meter: QueryMeter) -> None:
        self._ask, self.gives, self.meter = ask, gives, meter

    def answers(self, images: Tensor) -> Tensor:
        self.meter.take(len(images))
        with torch.no_grad():
            probabilities = self._ask(images)
        if self.gives == "labels":
            return nn.functional.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).float()
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def as_seen(model: nn.Module, access: Sequence[Access], budget: int = 0) -> WhiteBox | BlackBox:
    """``model`` by what a method's card says that it asks for, and no more."""
    meter, answers = QueryMeter(budget), [name for name in ("probabilities", "labels") if name in access]
    if not answers:
        return WhiteBox(model, meter)
    model.eval().requires_grad_(False)
    return BlackBox(lambda images: model(pixel_values=images).logits.softmax(-1), answers[0], meter)
