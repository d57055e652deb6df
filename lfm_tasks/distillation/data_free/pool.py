"""A bounded sample of all images that there were, each equally likely to be in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lfm_tasks.seeds import derive_seed


@dataclass
class Pool:
    """Reservoir of at most ``size`` images with the teacher's answers (Vitter 1985, algorithm R). What is added to it is copied.

    Which image goes where depends on ``seed``, ``name`` and the number of images before it alone.
    """

    size: int
    seed: int
    name: str
    seen: int = 0
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    answers: Tensor = field(default_factory=lambda: torch.empty(0))

    def __len__(self) -> int:
        return len(self.images)

    def add(self, images: Tensor, answers: Tensor) -> None:
        room = max(0, self.size - len(self))
        if room:
            held = [(self.images, self.answers)] if len(self) else []
            self.images, self.answers = (torch.cat(one) for one in zip(*held, (images[:room], answers[:room]), strict=True))
            self.seen += len(images[:room])
        for image, answer in zip(images[room:], answers[room:], strict=True):
            place = derive_seed(self.seed, self.name, self.seen) % (self.seen + 1)
            if place < self.size:
                self.images[place], self.answers[place] = image, answer
            self.seen += 1

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` of them, with repetition, as copies."""
        places = torch.randint(len(self), (count,), generator=generator)
        return self.images[places], self.answers[places]

    def state(self) -> dict[str, Tensor]:
        return {"images": self.images, "answers": self.answers, "seen": torch.tensor(self.seen)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.images, self.answers, self.seen = state["images"].clone(), state["answers"].clone(), int(state["seen"])
