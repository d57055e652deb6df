"""Sum of the losses of one forward pass."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.models.attention import logits_at, segments
from lfm_tasks.tuning.batches import Batch


def loss_sum(model: nn.Module, batch: Batch, *, reduction: str = "sum") -> Tensor:
    """Cross-entropy in nats over the batch's targets, in float32: their sum, or each with ``reduction="none"``.

    Call it, and the backward pass of what it gives, inside :func:`row_of` the same batch.
    """
    inputs = {name: value for name in ("input_ids", "attention_mask", "position_ids") if (value := getattr(batch, name)) is not None}
    if batch.positions is None:
        return functional.cross_entropy(model(**inputs).logits.float(), batch.targets, reduction=reduction)
    with logits_at(model, batch.positions):
        logits = model(**inputs, use_cache=False).logits[0]
    return functional.cross_entropy(logits.float(), batch.targets, reduction=reduction)


def row_of(batch: Batch):
    """Where a packed row's sequences are known to the attention."""
    return segments(batch.lengths) if batch.lengths else nullcontext()


def to_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    moved = {name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for name, value in vars(batch).items()}
    return Batch(**moved)
