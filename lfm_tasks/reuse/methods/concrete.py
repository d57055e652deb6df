"""Concrete Subspace (Tang et al. 2023): one mask over the parameters, shared by all task vectors, learnt without labels.

The mask is drawn from a binary concrete distribution with a logit x for each parameter, and divided by its mean, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lfm_tasks.models.resuming import load_optimizer_state, optimizer_state
from lfm_tasks.reuse.adapting import Adaptation, batches, descend
from lfm_tasks.reuse.blocks import blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.learning import Learning, Learnt
from lfm_tasks.reuse.merged import Merged
from lfm_tasks.reuse.methods.adamerging import Coefficients, shared, start
from lfm_tasks.reuse.methods.config import ConcreteAdamergingConfig, ConcreteConfig, ConcreteTaskArithmeticConfig
from lfm_tasks.seeds import derive_seed


def concrete(group: Group, options: ConcreteConfig) -> Tensor:
    """theta_0 + m ∘ sum_t lambda_t tau_t; what was learnt is the lambda [models], then the elements of m."""
    coefficients, mask = group.learnt[: len(group.models)].tolist(), group.learnt[len(group.models) :].view(group.base.shape)

    def merge(_: slice, base: Tensor, mask: Tensor, *models: Tensor) -> Tensor:
        moved = torch.zeros_like(base)
        for coefficient, model in zip(coefficients, models, strict=True):
            moved.add_(model - base, alpha=coefficient)
        return torch.addcmul(base, moved, mask)

    return blockwise(merge, group.base, mask, *group.models, dtype=group.dtype)


def draw(logits: Tensor, temperature: float, uniform: Tensor | None = None) -> Tensor:
    """Elements of a mask from 0 to 1: sigmoid((x + log u − log(1 − u)) / T); without ``uniform`` the median, u = 1/2."""
    if uniform is None:
        return logits.div(temperature).sigmoid_()
    eps = torch.finfo(uniform.dtype).eps
    return uniform.clamp(eps, 1 - eps).logit_().add_(logits).div_(temperature).sigmoid_()


def rescaled(mask: Tensor) -> tuple[Tensor, float]:
    """The mask, in place, divided by its mean, and that mean. A mask of zeros stays so: the tensor is then the base's."""
    mean = float(mask.mean(dtype=torch.float64)) if mask.numel() else 0.0
    return mask.div_(mean or 1.0), mean


def by_logits(gradient: Tensor, mask: Tensor, mean: float, temperature: float) -> Tensor:
    """In place, the gradient by the rescaled mask made that by the logits: with c = m mean, (g − <g, m>/N) / mean * c (1 − c) / T."""
    if not mean:
        return gradient.zero_()
    shift = float((gradient * mask).sum(dtype=torch.float64)) / mask.numel()
    drawn = mask * mean
    return gradient.sub_(shift).mul_(drawn).mul_(drawn.neg_().add_(1)).div_(mean * temperature)


class Mask:
    """The stage that learns the logits by Adam. One draw a step serves all tasks."""

    name = "mask"

    def __init__(self, merged: Merged, learning: Learning, options: ConcreteConfig) -> None:
        self.merged, self.learning, self.options, self.steps = merged, learning, options, options.mask_steps
        self.logits = {name: torch.zeros(leaf.shape) for name, leaf in merged.leaves.items()}
        self.optimizer = torch.optim.Adam(self.logits.values(), lr=options.mask_step_size, fused=True)
        self.inner = self.outer = self._final = None

    def step(self, number: int) -> list[float]:
        if self.outer is None:
            self.inner, self.outer = (self._batches(purpose, number) for purpose in ("inner", "outer"))
        masks, means = self._drawn(number)
        coefficients = self._answer(masks)
        self.merged.remake(coefficients, masks)
        losses = descend(self.merged, self.learning.tasks, next(self.outer))
        for name, gradient in self.merged.by_masks(coefficients).items():
            self.logits[name].grad = by_logits(gradient, masks.pop(name), means[name], self.options.temperature)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._final = None
        if number + 1 == self.steps:
            self.optimizer.state.clear()
        return losses

    def _answer(self, masks: Mapping[str, Tensor]) -> Tensor:
        """The coefficients [tensors, models] that the mask is judged with; where they are learnt, one step from their start."""
        options, names = self.options, self.merged.names
        if not isinstance(options, ConcreteAdamergingConfig):
            return torch.full((len(names), len(self.merged.models)), options.coefficient)
        values = start(self.merged, options)
        self.merged.remake(values.expand(len(names), -1), masks)
        descend(self.merged, self.learning.tasks, next(self.inner))
        gradient = shared(self.merged.by_coefficients(masks), values)
        if options.inner_optimizer == "adam":
            gradient /= gradient.abs() + 1e-8
        return (values - options.inner_step_size * gradient).expand(len(names), -1)

    def settle(self) -> None:
        coefficients = torch.full((len(self.merged.names), len(self.merged.models)), self.options.coefficient)
        self.merged.remake(coefficients, self.final())

    def final(self) -> dict[str, Tensor]:
        """The rescaled masks of the result, as the logits are now."""
        if self._final is None:
            draws = {name: self._uniform("final", name) if self.options.mask == "sampled" else None for name in self.logits}
            self._final = {n: rescaled(draw(x, self.options.temperature, draws.pop(n)))[0] for n, x in self.logits.items()}
        return self._final

    def state(self) -> dict[str, Tensor]:
        return {f"logits/{name}": tensor for name, tensor in self.logits.items()} | optimizer_state(self.optimizer)

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, logits in self.logits.items():
            logits.copy_(state[f"logits/{name}"])
        load_optimizer_state(self.optimizer, {key: tensor for key, tensor in state.items() if not key.startswith("logits/")})
        self._final = None

    def _drawn(self, number: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        masks, means = {}, {}
        for name, logits in self.logits.items():
            masks[name], means[name] = rescaled(draw(logits, self.options.temperature, self._uniform(number, name)))
        return masks, means

    def _uniform(self, step: int | str, name: str) -> Tensor:
        generator = np.random.Generator(np.random.SFC64(derive_seed(self.learning.seed, "concrete", step, name)))
        return torch.from_numpy(generator.random(self.logits[name].numel(), dtype=np.float32)).view(self.logits[name].shape)

    def _batches(self, purpose: str, first: int):
        return batches(self.learning.tasks, self.options.batch_size, self.learning.seed, purpose, first)


def learn_mask(learning: Learning, options: ConcreteTaskArithmeticConfig) -> Learnt:
    merged = Merged(learning)
    mask = Mask(merged, learning, options)
    adaptation = Adaptation([mask], merged, learning, options)
    adaptation.run()
    coefficients = torch.full((len(merged.names), len(merged.models)), options.coefficient)
    return adaptation.learnt(_packed(mask, coefficients))


def learn_mask_and_coefficients(learning: Learning, options: ConcreteAdamergingConfig) -> Learnt:
    """First the mask, judged by how well the coefficients answer it in one step; then the coefficients under the mask."""
    merged = Merged(learning)
    mask = Mask(merged, learning, options)
    stage = Coefficients(merged, learning, options, mask.final)
    adaptation = Adaptation([mask, stage], merged, learning, options)
    adaptation.run()
    return adaptation.learnt(_packed(mask, stage.of_tensors()), stage.values)


def _packed(mask: Mask, coefficients: Tensor) -> dict[str, Tensor]:
    masks = mask.final()
    return {name: torch.cat([row, masks[name].view(-1)]) for name, row in zip(masks, coefficients, strict=True)}


CONCRETE_TASK_ARITHMETIC = MergeMethod(concrete, base="required", learn=learn_mask)
CONCRETE_ADAMERGING = MergeMethod(concrete, base="required", learn=learn_mask_and_coefficients)
