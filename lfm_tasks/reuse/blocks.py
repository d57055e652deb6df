"""Tensors in blocks: compute in float32 (float64 where an input is float64) on what fits in a cache, cast once at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lfm_tasks.errors import InvalidInput

BLOCK = 1 << 17
"""Elements of a block of an elementwise pass; any size gives the same bits."""
REDUCED = 1 << 17
"""Elements of a block of a sum; part of the result's definition."""


def work_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def whole(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the working precision, contiguous. A tensor that is so already is the caller's own: never write to one.

    Raises :class:`InvalidInput` for NaN and infinity.
    """
    dtype = work_dtype(*tensors)
    return [_finite(tensor.to(dtype).contiguous()) for tensor in tensors]


def blocks(*tensors: Tensor, size: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Equal stretches of the flattened tensors, in the working precision."""
    dtype = work_dtype(*tensors)
    flat = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), size):
        span = slice(start, start + size)
        yield span, [part[span].to(dtype) for part in flat]


def blockwise(function: Callable[..., Tensor], *tensors: Tensor, dtype: torch.dtype, row: int = 1) -> Tensor:
    """``function(span, *parts)`` over the tensors, all of one shape; a span holds whole rows of ``row`` elements.

    Raises :class:`InvalidInput` for NaN and infinity in the tensors.
    """
    result = torch.empty(tensors[0].shape, dtype=dtype)
    flat = result.view(-1)
    for span, parts in blocks(*tensors, size=max(1, BLOCK // max(1, row)) * max(1, row)):
        flat[span] = function(span, *[_finite(part) for part in parts])
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
    if not tensor.is_floating_point():
        return
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), BLOCK):
        least, most = torch.aminmax(flat[start : start + BLOCK])  # both are NaN where an element is
        if not (math.isfinite(least.item()) and math.isfinite(most.item())):
            raise InvalidInput(message)


def _finite(part: Tensor) -> Tensor:
    """``part``; here it is in the cache, so that a look at it costs a third of a pass of its own."""
    if not math.isfinite(part.sum().item()) and not bool(part.isfinite().all()):
        raise InvalidInput("A tensor holds NaN or infinity.")
    return part
