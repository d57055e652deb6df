"""Fast data-free distillation: a meta-generator from which a few steps lead to new images (Fang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses, meta
from lfm_tasks.distillation.data_free.batch_norm import Matching, batch_norms, matching
from lfm_tasks.distillation.data_free.config import FastConfig
from lfm_tasks.distillation.data_free.generator import new_generator, reset_first
from lfm_tasks.distillation.data_free.synthesis import Best, Setting, balanced_targets, shown, student_logits
from lfm_tasks.distillation.data_free.teachers import WhiteBox
from lfm_tasks.models.resuming import below, load_optimizer_state, optimizer_state, under

JITTER = 2


class Fast:
    def __init__(self, setting: Setting, config: FastConfig) -> None:
        self.setting, self.config = setting, config
        self.teacher: WhiteBox = setting.teacher
        if config.batch_norm:
            batch_norms(self.teacher.model)
        self.generator = new_generator(config.latent, config.width, setting.space, setting.seed)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.generator_rate, betas=(0.5, 0.999))
        self.past: list[Tensor] = []
        """Running statistics of the images so far, [2, channels] of each batch norm of the teacher."""

    def make(self, round: int) -> Tensor:
        config, setting = self.config, self.setting
        random = setting.generator("fast", round)
        targets = balanced_targets(config.images, setting.classes, random)
        noise = setting.noise(config.images, config.latent, round).requires_grad_()
        if config.reset_first:
            reset_first(self.generator, setting.seed, round)
        generator = deepcopy(self.generator)
        groups = [{"params": list(generator.parameters())}, {"params": [noise], "lr": config.latent_rate}]
        inner = torch.optim.Adam(groups, lr=config.generator_rate, betas=(0.5, 0.999))
        best = Best()

        def loss() -> Tensor:
            images = generator(noise)
            value = self.loss(images, targets, statistics, random, adversarial=round >= config.warmup_rounds)
            best.offer(images, value)
            return value

        with matching(self.teacher.model, config.momentum, self.past) if config.batch_norm else nullcontext() as statistics:
            meta.adapt(inner, loss, config.iterations)
            start, adapted = list(self.generator.parameters()), list(generator.parameters())
            gradients = meta.fomaml(adapted, loss) if config.meta == "fomaml" else meta.reptile(start, adapted)
            self.past = statistics.statistics() if statistics is not None else []
        meta.follow(self.optimizer, start, gradients)
        return best.images

    def loss(self, images: Tensor, targets: Tensor, statistics: Matching | None, random: torch.Generator, *, adversarial: bool) -> Tensor:
        config = self.config
        view = shown(images, random, JITTER, flip=True)
        logits = self.teacher.logits(view)
        loss = config.one_hot * functional.cross_entropy(logits, targets)
        if statistics is not None:
            loss = loss + config.batch_norm * statistics.loss()
        if config.adversarial and adversarial:
            loss = loss - config.adversarial * losses.disagreement(student_logits(self.setting.student, view), logits)
        return loss

    def state(self) -> dict[str, Tensor]:
        past = {str(place): tensor for place, tensor in enumerate(self.past)}
        own = under(self.generator.state_dict(), "generator") | under(optimizer_state(self.optimizer), "optimizer")
        return own | under(past, "past")

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.generator.load_state_dict(below(state, "generator"))
        load_optimizer_state(self.optimizer, below(state, "optimizer"))
        past = below(state, "past")
        self.past = [past[str(place)].clone() for place in range(len(past))]
