"""Teachers that only answer: the generator's gradient is estimated from probabilities, or taken from the student where labels are all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses
from lfm_tasks.distillation.data_free.config import IdealConfig, ZerothOrderConfig
from lfm_tasks.distillation.data_free.finite_differences import forward_differences, sphere
from lfm_tasks.distillation.data_free.methods.generative import Generative
from lfm_tasks.distillation.data_free.synthesis import balanced_targets, student_logits


class ZerothOrder(Generative):
    """The generator seeks the L1 distance of the logits, known up to a constant in each row, by forward differences (DFME).

    Its loss is linear in the images, with the gradient that was estimated.
    """

    def loss(self, images: Tensor, round: int, step: int) -> Tensor:
        config: ZerothOrderConfig = self.config
        directions = sphere(config.directions, images, self.setting.generator("directions", round, step))
        gradient = forward_differences(self.agreement, images.detach(), directions, config.epsilon)
        return (images * gradient).sum() / len(images)

    def agreement(self, images: Tensor) -> Tensor:
        """Minus the distance, [batch]."""
        with torch.no_grad():
            teacher, student = self.setting.teacher.answers(images), student_logits(self.setting.student, images)
        return -(_centred(student) - _centred(teacher)).abs().sum(-1)


class Ideal(Generative):
    """The generator learns from the student alone, and every image is one query: what the student would take for each class alike."""

    def loss(self, images: Tensor, round: int, step: int) -> Tensor:
        config: IdealConfig = self.config
        logits = student_logits(self.setting.student, images)
        targets = balanced_targets(len(images), self.setting.classes, self.setting.generator("targets", round, step))
        return functional.cross_entropy(logits, targets) + config.balance * losses.balance(logits)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)
