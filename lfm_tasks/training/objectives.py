"""What a run minimises, and the sum of the losses of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.models.attention import logits_at, segments
from lfm_tasks.training.batches import Batch, count_targets
from lfm_tasks.training.split import Split


class CrossEntropy:
    """The mean cross-entropy over the targets of an optimiser step. Base of other objectives, which are means over them too."""

    packs = True
    """False: every example has a row of its own."""
    whole_steps = False
    """True: the loss of a step is not the sum over its parts, so that a step is one forward pass of one process."""

    def __init__(self, *, labels: bool) -> None:
        """``labels``: classification; else language modelling."""
        self.labels = labels

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of one forward pass, in float32. The gradient of a step is that of the sum over its passes divided by :meth:`count`."""
        return loss_sum(model, batch)

    def count(self, split: Split, examples: Sequence[int]) -> int:
        """Targets of all passes of all processes of a step over ``examples``."""
        return count_targets(split, examples, labels=self.labels)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains beside the model, and is not saved with it."""
        return {}

    def rows(self, split: Split, examples: Sequence[int], step: int) -> tuple[Split, Sequence[int]]:
        """What the step ``step`` learns from: the rows ``examples`` of ``split``, or others in their place."""
        return split, examples

    def validated(self, loss: float) -> None:
        """Told the validation loss after each evaluation."""

    def stepped(self) -> None:
        """Told after each optimiser step, in every process."""

    def state(self) -> dict[str, Tensor]:
        """What it keeps from step to step, for a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""

    def modes(self) -> AbstractContextManager[None]:
        """Entered while the model trains: a place for faster kernels, and for what the objective asks other models."""
        return nullcontext()


def loss_sum(model: nn.Module, batch: Batch, *, reduction: str = "sum") -> Tensor:
    """Cross-entropy in nats over the batch's targets, each by its weight, in float32: their sum, or each with ``reduction="none"``.

    Call it, and the backward pass of what it gives, inside :func:`row_of` the same batch.
    """
    if batch.positions is None:
        return functional.cross_entropy(model(**batch.inputs).logits.float(), batch.targets, reduction=reduction)
    with logits_at(model, batch.positions):
        logits = model(**batch.inputs, use_cache=False).logits[0]
    if batch.weights is None:
        return functional.cross_entropy(logits.float(), batch.targets, reduction=reduction)
    losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none") * batch.weights
    return losses.sum() if reduction == "sum" else losses


def row_of(batch: Batch):
    """Where a packed row's sequences are known to the attention."""
    return segments(batch.lengths) if batch.lengths else nullcontext()


def to_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    moved = {name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for name, value in vars(batch).items()}
    return Batch(**moved)
