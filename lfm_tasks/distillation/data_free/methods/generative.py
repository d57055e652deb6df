"""One generator for the whole run: DAFL makes what the teacher is sure of, DFAD what student and teacher disagree about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses
from lfm_tasks.distillation.data_free.config import DaflConfig, DfadConfig, GeneratorConfig
from lfm_tasks.distillation.data_free.generator import new_generator
from lfm_tasks.distillation.data_free.meta import step_down
from lfm_tasks.distillation.data_free.synthesis import Setting, student_logits
from lfm_tasks.distillation.data_free.teachers import WhiteBox
from lfm_tasks.models.resuming import below, load_optimizer_state, optimizer_state, under


class Generative(ABC):
    """Each round takes steps down :meth:`loss`, then makes images of fresh noise."""

    def __init__(self, setting: Setting, config: GeneratorConfig) -> None:
        self.setting, self.config = setting, config
        self.generator = new_generator(config.latent, config.width, setting.space, setting.seed)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.generator_rate, betas=(0.5, 0.999))

    def make(self, round: int) -> Tensor:
        config, setting = self.config, self.setting
        for step in range(config.generator_steps):
            images = self.generator(setting.noise(setting.batch_size, config.latent, "generator", round, step))
            step_down(self.optimizer, self.loss(images, round, step))
        with torch.no_grad():
            return self.generator(setting.noise(config.images, config.latent, "images", round))

    @abstractmethod
    def loss(self, images: Tensor, round: int, step: int) -> Tensor:
        """Of ``images`` [batch, c, h, w]; with its gradient."""

    def state(self) -> dict[str, Tensor]:
        return {**under(self.generator.state_dict(), "generator"), **under(optimizer_state(self.optimizer), "optimizer")}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.generator.load_state_dict(below(state, "generator"))
        load_optimizer_state(self.optimizer, below(state, "optimizer"))


class Dafl(Generative):
    """Chen et al. 2019, eq. 6."""

    def loss(self, images: Tensor, round: int, step: int) -> Tensor:
        config: DaflConfig = self.config
        teacher: WhiteBox = self.setting.teacher
        with teacher.features() as features:
            logits = teacher.logits(images)
        loss = config.one_hot * functional.cross_entropy(logits, logits.argmax(-1)) + config.balance * losses.balance(logits)
        return loss + config.activation * losses.activation(features[0])


class Dfad(Generative):
    """Fang et al. 2019, eq. 4; with ``kl`` the generator of Micaelli and Storkey 2019."""

    def loss(self, images: Tensor, round: int, step: int) -> Tensor:
        config: DfadConfig = self.config
        teacher, student = self.setting.teacher.logits(images), student_logits(self.setting.student, images)
        apart = losses.logit_distance(student, teacher) if config.distance == "l1" else losses.divergence(student, teacher).mean()
        return -apart
