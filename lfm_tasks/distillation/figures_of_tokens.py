"""A loss over figures of single tokens, where the figures need the logits and the loss needs the figures of all tokens at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lfm_tasks.models.heads import chunk_rows, chunked_sum, chunks


def loss_of_figures(
    figures: Callable[[Tensor, slice], Tensor], loss: Callable[[Tensor], Tensor], hidden: Tensor, head: nn.Module, size: int = 0
) -> Tensor:
    """``loss(all figures)``, with its gradient, though no more than ``size`` rows of logits exist at a time (0: as many as fit).

    ``figures(logits[rows], rows)`` gives ``[n, k]`` of a slice. They are taken twice: first without a graph, to know the loss and its
    derivative by each figure; then slice by slice, weighted by it.
    """
    size = size or chunk_rows(head.weight.shape[0])
    with torch.no_grad():
        parts = [figures(head(hidden[rows]), rows) for rows in chunks(len(hidden), size)]
    values = torch.cat(parts) if parts else hidden.new_zeros(0, 1)
    with torch.enable_grad():
        values.requires_grad_()
        total = loss(values)
        if not total.requires_grad:
            return total
        (slopes,) = torch.autograd.grad(total, values)
    if not torch.is_grad_enabled():
        return total.detach()
    carried = chunked_sum(lambda logits, rows: (figures(logits, rows) * slopes[rows]).sum(), hidden, head, size)
    return total.detach() + (carried - carried.detach())
