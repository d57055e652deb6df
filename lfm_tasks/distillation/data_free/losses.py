"""Losses of student and synthesiser, as functions of tensors. Logits are [batch, classes]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lfm_tasks.distillation.divergences import forward_kl, jsd, log_probabilities, scaled


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_T || q_T), mean over the batch; its gradient by a row of the student's logits is T (q_T - p_T) / batch (Hinton et al.)."""
    return scaled(divergence(student, teacher, temperature), temperature).mean()


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) in nats, [batch]."""
    return forward_kl(log_probabilities(student, temperature), log_probabilities(teacher, temperature))


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """In units of ln 2, so from 0 to 1, [batch]. Not clamped: a clamp has no gradient where the two agree, which is where it is needed."""
    return jsd(log_probabilities(student, temperature), log_probabilities(teacher, temperature), 0.5) / math.log(2)


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) over the rows whose classes agree, divided by all rows (CMI): elsewhere there is nothing to seek."""
    agree = student.argmax(-1) == teacher.argmax(-1)
    return (divergence(student, teacher) * agree).mean()


def logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the logits (DFAD)."""
    return (student - teacher).abs().mean()


def balance(logits: Tensor) -> Tensor:
    """Negative entropy of the batch's mean prediction in nats: -ln C, the least, where the classes are equally many (DAFL, eq. 5)."""
    mean = torch.logsumexp(log_probabilities(logits), dim=0) - math.log(len(logits))
    return (mean.exp() * mean).sum()


def activation(features: Tensor) -> Tensor:
    """Minus the mean magnitude of the features [batch, width] (DAFL, eq. 4): images of the teacher's data excite them."""
    return -features.abs().mean()


def total_variation(images: Tensor) -> Tensor:
    """Mean over the images [batch, c, h, w] of the L2 norms of their differences to the right, down and along both diagonals."""
    pairs = (
        (images[..., :, 1:], images[..., :, :-1]),
        (images[..., 1:, :], images[..., :-1, :]),
        (images[..., 1:, 1:], images[..., :-1, :-1]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
    )
    return sum(torch.linalg.vector_norm((a - b).flatten(1), dim=1).mean() for a, b in pairs)


def length(images: Tensor) -> Tensor:
    """Mean L2 norm of an image."""
    return torch.linalg.vector_norm(images.flatten(1), dim=1).mean()


def contrast(anchors: Tensor, others: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """Each anchor's [batch, d] cross-entropy of finding its own other view among ``others`` [batch, d] and ``bank`` [n, d] (CMI, eq. 6).

    All rows are of length one.
    """
    similarities = anchors @ torch.cat([others, bank]).T / temperature
    return functional.cross_entropy(similarities, torch.arange(len(anchors), device=anchors.device))


def attraction(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance, per pixel, of the pairs of images of different classes (CAKE): draws them to the boundary between."""
    flat = images.flatten(1)
    distances = (flat[:, None] - flat[None]).square().mean(-1)
    apart = targets[:, None] != targets[None]
    return distances[apart].mean() if apart.any() else distances.sum() * 0
