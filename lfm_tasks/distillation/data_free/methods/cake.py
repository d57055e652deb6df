"""CAKE: noise of two classes and more is drawn together until it lies on either side of the boundary (Braun et al. 2024).

No statistic of the teacher is looked at, so that its architecture does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses
from lfm_tasks.distillation.data_free.config import CakeConfig
from lfm_tasks.distillation.data_free.synthesis import Setting, Stateless, balanced_targets
from lfm_tasks.distillation.data_free.teachers import WhiteBox

LAST_STEP = 0.01
"""Length of the last step, as a share of the first."""


class Cake(Stateless):
    def __init__(self, setting: Setting, config: CakeConfig) -> None:
        self.setting, self.config = setting, config
        self.teacher: WhiteBox = setting.teacher

    def make(self, round: int) -> Tensor:
        """Langevin steps: each goes its length down the gradient, whose root mean square per image is set to one, and adds noise."""
        config, setting, space = self.config, self.setting, self.setting.space
        random = setting.generator("cake", round)
        targets = balanced_targets(config.images, setting.classes, random)
        images = space.clip(torch.randn(config.images, space.channels, space.height, space.width, generator=random))
        for step in range(config.iterations):
            setting.poll()
            images.requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(images, targets), [images])
            scale = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(torch.finfo(gradient.dtype).tiny)
            size = config.step_size * (1 - (1 - LAST_STEP) * step / max(1, config.iterations - 1))
            noise = config.noise * torch.randn(images.shape, generator=random)
            images = space.clip(images.detach() + size * (noise - gradient / scale))
        return images

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        config = self.config
        loss = config.one_hot * functional.cross_entropy(self.teacher.logits(images), targets)
        return loss + config.contrast * losses.attraction(images, targets) + config.total_variation * losses.total_variation(images)
