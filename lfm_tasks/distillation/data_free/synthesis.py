"""The seam between making images and learning from them, and what synthesisers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lfm_tasks.distillation.data_free.teachers import Teacher
from lfm_tasks.models.images import ImageSpace
from lfm_tasks.seeds import derive_seed


@dataclass(frozen=True)
class Setting:
    """What a synthesiser works with: ``teacher`` as its card says it may see it, ``student`` as it is now, borrowed."""

    teacher: Teacher
    student: nn.Module
    space: ImageSpace
    classes: int
    batch_size: int
    seed: int
    poll: Callable[[], None]
    """Raises once a stop was asked for. A synthesiser calls it only while its own state is that of the end of the last round."""

    def generator(self, *names: object) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, *names))

    def noise(self, rows: int, latent: int, *names: object) -> Tensor:
        return torch.randn(rows, latent, generator=self.generator("noise", *names))


class Synthesiser(Protocol):
    """Made as ``(setting, config)``."""

    def make(self, round: int) -> Tensor:
        """New images [n, c, h, w] inside the domain. What they are depends on the state, the student and the round's number alone."""

    def state(self) -> dict[str, Tensor]:
        """All that the rounds to come depend on, borrowed."""

    def load(self, state: Mapping[str, Tensor]) -> None: ...


class Stateless:
    """A synthesiser whose rounds know nothing of one another."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        return None


def balanced_targets(count: int, classes: int, generator: torch.Generator) -> Tensor:
    """[count] in random order; no class is more than one ahead of another, and chance decides which are."""
    order = torch.randperm(classes, generator=generator)
    targets = order[torch.arange(count) % classes]
    return targets[torch.randperm(count, generator=generator)]


def shown(images: Tensor, generator: torch.Generator, jitter: int, flip: bool) -> Tensor:
    """A view of the images: rolled by up to ``jitter`` pixels either way, mirrored every other time."""
    shift = [int(torch.randint(-jitter, jitter + 1, (), generator=generator)) for _ in range(2)]
    mirrored = flip and bool(torch.rand((), generator=generator) < 0.5)
    view = torch.roll(images, shift, dims=(2, 3)) if any(shift) else images
    return view.flip(3) if mirrored else view


def student_logits(student: nn.Module, images: Tensor) -> Tensor:
    """With gradients by the images; the student is in evaluation mode for it, so that its own statistics stay."""
    training = student.training
    student.eval()
    try:
        return student(pixel_values=images).logits
    finally:
        student.train(training)


class Best:
    """The images with the least loss so far, copied, for the optimiser changes its own in place."""

    def __init__(self) -> None:
        self.images: Tensor | None = None
        self.least = float("inf")

    def offer(self, images: Tensor, loss: Tensor) -> bool:
        """Whether they are the best. The first are, whatever their loss."""
        better = self.images is None or loss.item() < self.least
        if better:
            self.images, self.least = images.detach().clone(), loss.item()
        return better
