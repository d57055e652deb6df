"""AdaMerging (Yang et al. 2024): coefficients of the task vectors, learnt by making predictions on unlabelled rows sure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lfm_tasks.models.resuming import load_optimizer_state, optimizer_state
from lfm_tasks.reuse.adapting import Adaptation, batches, descend
from lfm_tasks.reuse.blocks import blockwise
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.learning import Learning, Learnt
from lfm_tasks.reuse.merged import Merged
from lfm_tasks.reuse.methods.config import AdamergingConfig, AdamergingPpConfig
from lfm_tasks.reuse.methods.task_vectors import Sparsify, merge_task_vectors
from lfm_tasks.reuse.methods.ties import keep_from, thresholds


def adamerging(group: Group, options: AdamergingConfig) -> Tensor:
    """theta_0 + sum_t lambda_t tau_t, with the lambda learnt for this tensor."""
    return merge_task_vectors(group, group.learnt.tolist(), 1.0)


def adamerging_pp(group: Group, options: AdamergingPpConfig) -> Tensor:
    """The same with task vectors that TIES has trimmed, without the elements whose sign lost the election."""
    sparsify = trimmed(thresholds(group.base, group.models, options.density))

    def merge(span: slice, base: Tensor, *models: Tensor) -> Tensor:
        deltas = sparsify(span, torch.stack([model - base for model in models]))
        return base + group.learnt.to(base.dtype) @ deltas

    return blockwise(merge, group.base, *group.models, dtype=group.dtype)


def trimmed(least: Sequence[float]) -> Sparsify:
    """Of task vectors [models, elements] what is at least ``least`` in magnitude, and of the sign of the sum of that."""
    keep = [keep_from(one) for one in least]

    def sparsify(span: slice, deltas: Tensor) -> Tensor:
        deltas = torch.stack([one(span, delta) for one, delta in zip(keep, deltas, strict=True)])
        sign = torch.where(deltas.sum(0) < 0, -1.0, 1.0).to(deltas.dtype)
        return deltas * (deltas * sign > 0)

    return sparsify


class Coefficients:
    """The stage that learns lambda [tensors or 1, models] by Adam; ``masks`` stand still."""

    name = "coefficients"

    def __init__(
        self, merged: Merged, learning: Learning, options: AdamergingConfig, masks: Callable[[], Mapping[str, Tensor]] | None = None
    ) -> None:
        self.merged, self.learning, self.options, self.masks = merged, learning, options, masks
        self.steps = options.steps
        self.values = start(merged, options)
        self.optimizer = torch.optim.Adam([self.values], lr=options.step_size)
        self.batches = None

    def step(self, number: int) -> list[float]:
        if self.batches is None:
            self.batches = batches(self.learning.tasks, self.options.batch_size, self.learning.seed, "coefficients", number)
        self.settle()
        losses = descend(self.merged, self.learning.tasks, next(self.batches))
        self.values.grad = shared(self.merged.by_coefficients(self.masks and self.masks()), self.values)
        self.optimizer.step()
        if self.options.bounded:
            self.values.clamp_(0, 1)
        return losses

    def settle(self) -> None:
        self.merged.remake(self.of_tensors(), self.masks and self.masks())

    def of_tensors(self) -> Tensor:
        """[tensors, models]"""
        return self.values.expand(len(self.merged.names), -1)

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values} | optimizer_state(self.optimizer)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.values.copy_(state["values"])
        load_optimizer_state(self.optimizer, {key: tensor for key, tensor in state.items() if key != "values"})


def start(merged: Merged, options: AdamergingConfig) -> Tensor:
    """[tensors or 1, models]"""
    rows = len(merged.names) if options.granularity == "tensor" else 1
    return torch.full((rows, len(merged.models)), options.coefficient)


def shared(gradient: Tensor, values: Tensor) -> Tensor:
    """The gradient [tensors, models] by ``values``, one row of which may be that of every tensor."""
    return (gradient if len(values) == len(gradient) else gradient.sum(0, keepdim=True)).to(values.dtype)


def learn(learning: Learning, options: AdamergingConfig) -> Learnt:
    return _learn(Merged(learning), learning, options)


def learn_pp(learning: Learning, options: AdamergingPpConfig) -> Learnt:
    sparsify = {}
    for name in learning.merged:
        models = [model.read(name) for model in learning.models]
        sparsify[name] = trimmed(thresholds(learning.base.read(name), models, options.density))
    return _learn(Merged(learning, sparsify), learning, options)


def _learn(merged: Merged, learning: Learning, options: AdamergingConfig) -> Learnt:
    stage = Coefficients(merged, learning, options)
    adaptation = Adaptation([stage], merged, learning, options)
    adaptation.run()
    return adaptation.learnt(dict(zip(merged.names, stage.of_tensors(), strict=True)), stage.values)


ADAMERGING = MergeMethod(adamerging, base="required", learn=learn)
ADAMERGING_PP = MergeMethod(adamerging_pp, base="required", learn=learn_pp)
