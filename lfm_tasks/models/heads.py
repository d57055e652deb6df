"""The output embedding apart from the model: what it is given, and a loss over its logits that never holds all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_NUMBERS = 2**23
"""Logits that are held at a time."""
PROBE = 4


@contextmanager
def hidden_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Inside the block ``model(...).logits`` is what the output embedding would be given where the boolean mask ``positions``
    ``[batch, length]`` is True, ``[1, count, width]`` in row-major order. For a model with a :func:`has_plain_head`."""
    head = model.get_output_embeddings()
    head.forward = lambda hidden: hidden[positions][None]
    try:
        yield
    finally:
        del head.forward


def has_plain_head(model: nn.Module) -> bool:
    """Whether logits are what the output embedding gives, and nothing is done to them afterwards (as Gemma 2's soft cap is)."""
    seen: list[Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, arguments, output: seen.append(output))
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.arange(PROBE, device=model.device)[None], use_cache=False).logits
    finally:
        hook.remove()
    return torch.equal(seen[0].float(), logits.float())


def chunk_rows(vocabulary: int) -> int:
    return max(1, CHUNK_NUMBERS // vocabulary)


def chunks(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def chunked_sum(loss: Callable[[Tensor, slice], Tensor], hidden: Tensor, head: nn.Module, size: int) -> Tensor:
    """The sum of ``loss(head(hidden[rows]), rows)`` over slices of at most ``size`` rows of ``hidden`` ``[n, width]``.

    Each slice's logits are gone before those of the next are made: their gradients are taken at once, by ``hidden`` and by
    the head's parameters, and kept until they are asked for.
    """
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if not torch.is_grad_enabled():
        parts = [loss(head(hidden[rows]), rows) for rows in chunks(len(hidden), size)]
        return torch.stack(parts).sum() if parts else hidden.new_zeros((), dtype=torch.float32)
    return _ChunkedSum.apply(loss, head, size, parameters, hidden, *parameters)


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Any, head: nn.Module, size: int, parameters: list[Tensor], hidden: Tensor, *_: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32, device=hidden.device)
        by_hidden, by_parameters = torch.zeros_like(hidden), [torch.zeros_like(parameter) for parameter in parameters]
        for rows in chunks(len(hidden), size):
            with torch.enable_grad():
                part = hidden[rows].detach().requires_grad_()
                value = loss(head(part), rows)
            found = torch.autograd.grad(value, [part, *parameters], allow_unused=True)
            total += value.detach()
            for kept, gradient in zip([by_hidden[rows], *by_parameters], found, strict=True):
                if gradient is not None:
                    kept += gradient
        ctx.save_for_backward(by_hidden, *by_parameters)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, *by_parameters = ctx.saved_tensors
        return None, None, None, None, by_hidden * grad.to(by_hidden.dtype), *(one * grad.to(one.dtype) for one in by_parameters)
