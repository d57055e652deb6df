"""DeepInversion: noise is optimised until the teacher takes it for its own data (Yin et al. 2020)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses
from lfm_tasks.distillation.data_free.batch_norm import batch_norms, matching
from lfm_tasks.distillation.data_free.config import DeepInversionConfig
from lfm_tasks.distillation.data_free.meta import step_down
from lfm_tasks.distillation.data_free.synthesis import Best, Setting, Stateless, balanced_targets, shown, student_logits
from lfm_tasks.distillation.data_free.teachers import WhiteBox

BETAS = (0.5, 0.9)
COMPETITION_TEMPERATURE = 3.0


class DeepInversion(Stateless):
    def __init__(self, setting: Setting, config: DeepInversionConfig) -> None:
        self.setting, self.config = setting, config
        self.teacher: WhiteBox = setting.teacher
        if config.batch_norm:
            batch_norms(self.teacher.model)

    def make(self, round: int) -> Tensor:
        """The views with the least loss of the run, copied when they had it."""
        config, setting, space = self.config, self.setting, self.setting.space
        generator = setting.generator("deep inversion", round)
        targets = balanced_targets(config.images, setting.classes, generator)
        images = space.clip(torch.randn(config.images, space.channels, space.height, space.width, generator=generator)).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=config.image_rate, betas=BETAS)
        best = Best()
        with matching(self.teacher.model) if config.batch_norm else nullcontext() as statistics:
            for _ in range(config.iterations):
                setting.poll()
                view = shown(images, generator, config.jitter, config.flip)
                logits = self.teacher.logits(view)
                loss = self.prior(images) + config.one_hot * functional.cross_entropy(logits, targets)
                if statistics is not None:
                    loss = loss + config.batch_norm * statistics.loss()
                if config.competition and round >= config.warmup_rounds:
                    apart = losses.jensen_shannon(student_logits(setting.student, view), logits, COMPETITION_TEMPERATURE)
                    loss = loss + config.competition * (1 - apart).mean()
                best.offer(images, loss)
                step_down(optimizer, loss)
                with torch.no_grad():
                    images.copy_(space.clip(images))
        return best.images

    def prior(self, images: Tensor) -> Tensor:
        return self.config.total_variation * losses.total_variation(images) + self.config.l2 * losses.length(images)
