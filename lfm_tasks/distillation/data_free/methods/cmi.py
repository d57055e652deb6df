"""CMI: a generator from nothing for each round, whose images are to differ from one another and from those before (Fang et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses
from lfm_tasks.distillation.data_free.batch_norm import batch_norms, matching
from lfm_tasks.distillation.data_free.config import CmiConfig
from lfm_tasks.distillation.data_free.generator import new_generator
from lfm_tasks.distillation.data_free.meta import step_down
from lfm_tasks.distillation.data_free.pool import Pool
from lfm_tasks.distillation.data_free.synthesis import Best, Setting, balanced_targets, shown, student_logits
from lfm_tasks.distillation.data_free.teachers import WhiteBox
from lfm_tasks.models.resuming import below, under
from lfm_tasks.seeds import derive_seed

PROJECTION = 64
JITTER = 2
BANK_SHOWN = 256
"""Features of earlier images that a step of the contrast is shown."""


class Cmi:
    def __init__(self, setting: Setting, config: CmiConfig) -> None:
        self.setting, self.config = setting, config
        self.teacher: WhiteBox = setting.teacher
        if config.batch_norm:
            batch_norms(self.teacher.model)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(setting.seed, "projection"))
            self.head = nn.Sequential(nn.Linear(self.teacher.width, PROJECTION), nn.ReLU(), nn.Linear(PROJECTION, PROJECTION))
        self.bank = Pool(config.bank, setting.seed, "bank")

    def make(self, round: int) -> Tensor:
        """The images with the least loss of the round, copied when they had it."""
        config, setting = self.config, self.setting
        random = setting.generator("cmi", round)
        targets = balanced_targets(config.images, setting.classes, random)
        noise = setting.noise(config.images, config.latent, round).requires_grad_()
        generator, head = new_generator(config.latent, config.width, setting.space, setting.seed, round), deepcopy(self.head)
        optimizer = torch.optim.Adam([noise, *generator.parameters(), *head.parameters()], lr=config.generator_rate, betas=(0.5, 0.999))
        best, kept = Best(), None
        for _ in range(config.iterations):
            setting.poll()
            images = generator(noise)
            loss, features = self.loss(images, targets, head, random, adversarial=round >= config.warmup_rounds)
            if best.offer(images, loss):
                kept = features.detach().clone()
            step_down(optimizer, loss)
        self.head = head
        self.bank.add(kept, targets)
        return best.images

    def loss(
        self, images: Tensor, targets: Tensor, head: nn.Module, random: torch.Generator, *, adversarial: bool
    ) -> tuple[Tensor, Tensor]:
        """Of the images, and the teacher's features of the view that it is taken over [batch, width]."""
        config = self.config
        with ExitStack() as hooks:
            features = hooks.enter_context(self.teacher.features())
            statistics = hooks.enter_context(matching(self.teacher.model)) if config.batch_norm else None
            view = shown(images, random, JITTER, flip=True)
            logits = self.teacher.logits(view)
            (one,) = features
            loss = config.one_hot * functional.cross_entropy(logits, targets)
            if statistics is not None:
                loss = loss + config.batch_norm * statistics.loss()
            if config.adversarial and adversarial:
                loss = loss - config.adversarial * losses.disagreement(student_logits(self.setting.student, view), logits)
            if config.contrast:
                self.teacher.logits(_zoomed(images, random))
                loss = loss + config.contrast * self._contrast(one, features[0], head, random)
        return loss, one

    def _contrast(self, one: Tensor, other: Tensor, head: nn.Module, random: torch.Generator) -> Tensor:
        bank = self.bank.draw(BANK_SHOWN, random)[0] if len(self.bank) else one.new_empty(0, one.shape[1])
        views = [functional.normalize(head(features), dim=1) for features in (other, one, bank)]
        return losses.contrast(*views, self.config.contrast_temperature)

    def state(self) -> dict[str, Tensor]:
        return {**under(self.head.state_dict(), "head"), **under(self.bank.state(), "bank")}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.head.load_state_dict(below(state, "head"))
        self.bank.load(below(state, "bank"))


def _zoomed(images: Tensor, random: torch.Generator) -> Tensor:
    """The local view: a part of two thirds to all of each side, at a place of its own, at the images' size."""
    height, width = images.shape[2:]
    share = 2 / 3 + float(torch.rand((), generator=random)) / 3
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = (int(torch.randint(0, room + 1, (), generator=random)) for room in (height - tall, width - wide))
    part = images[..., top : top + tall, left : left + wide]
    return functional.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
