"""Tensors in blocks: compute in float32 (float64 where an input is float64) on what fits in a cache, cast once at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lfm_tasks.errors import InvalidInput

BLOCK = 1 << 16
"""Elements of a block of an elementwise pass; any size gives the same bits."""
REDUCED = 1 << 16
"""Elements of a block of a sum; part of the result's definition."""


def work_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def whole(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the working precision, contiguous. A tensor that is so already is the caller's own: never write to one."""
    dtype = work_dtype(*tensors)
    return [tensor.to(dtype).contiguous() for tensor in tensors]


def blocks(*tensors: Tensor, size: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Equal stretches of the flattened tensors, in the working precision."""
    dtype = work_dtype(*tensors)
    flat = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), size):
        span = slice(start, start + size)
        yield span, [part[span].to(dtype) for part in flat]


def blockwise(function: Callable[..., Tensor], *tensors: Tensor, dtype: torch.dtype, row: int = 1) -> Tensor:
    """``function(span, *parts)`` over the tensors, all of one shape; a span holds whole rows of ``row`` elements."""
    result = torch.empty(tensors[0].shape, dtype=dtype)
    flat = result.view(-1)
    for span, parts in blocks(*tensors, size=max(1, BLOCK // max(1, row)) * max(1, row)):
        flat[span] = function(span, *parts)
    return result


def accumulate(function: Callable[..., Tensor], *tensors: Tensor, row: int = 1) -> Tensor | float:
    """Sum of ``function(span, *parts)`` over blocks, in float64, or in int64 for counts; 0.0 for tensors without elements."""
    total: Tensor | float = 0.0
    for span, parts in blocks(*tensors, size=max(1, REDUCED // max(1, row)) * max(1, row)):
        part = function(span, *parts)
        total = total + (part.double() if part.is_floating_point() else part)
    return total


def check_finite(tensor: Tensor, message: str) -> None:
    """Raise :class:`InvalidInput` with ``message`` unless every element is a finite number."""
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), BLOCK):
        part = flat[start : start + BLOCK]
        if not bool(part.sum(dtype=torch.promote_types(part.dtype, torch.float32)).isfinite()) and not bool(part.isfinite().all()):
            raise InvalidInput(message)
