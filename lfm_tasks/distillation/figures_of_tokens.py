"""A loss over figures of single tokens, where the figures need the logits and the loss needs the figures of all tokens at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lfm_tasks.models.attention import logits_at
from lfm_tasks.models.heads import chunk_rows, chunked_sum, chunks, hidden_at
from lfm_tasks.training.batches import Batch


def loss_at_targets(
    model: nn.Module, batch: Batch, figures: Callable[[Tensor, slice], Tensor], loss: Callable[[Tensor], Tensor], *, plain: bool
) -> Tensor:
    """:func:`loss_of_figures` of a decoder at the batch's targets. ``plain``: its logits are what its output embedding gives
    (:func:`lfm_tasks.models.heads.has_plain_head`), so that they can be taken a slice at a time."""
    with (hidden_at if plain else logits_at)(model, batch.positions):
        found = model(**batch.inputs, use_cache=False).logits[0]
    return loss_of_figures(figures, loss, found, model.get_output_embeddings()) if plain else loss(figures(found, slice(None)))


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
