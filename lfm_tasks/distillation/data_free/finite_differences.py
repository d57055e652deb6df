"""Gradients of a function that can only be evaluated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def sphere(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """[count, *like.shape]: random directions of length one for each row of ``like``."""
    drawn = torch.randn(count, *like.shape, generator=generator, dtype=like.dtype)
    return drawn / torch.linalg.vector_norm(drawn.flatten(2), dim=2)[(...,) + (None,) * (like.dim() - 1)]


def forward_differences(values: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor, epsilon: float) -> Tensor:
    """d/m sum_i (f(x + e u_i) - f(x)) / e u_i for each row of ``x`` [batch, …], with d numbers in a row (DFME, eq. 8).

    ``values`` maps rows to [batch]; it is asked 1 + m times. Unbiased on a linear function for directions of uniform law on the
    sphere, and exact there where they are an orthonormal basis.
    """
    here, total = values(x), torch.zeros_like(x)
    for direction in directions:
        slope = (values(x + epsilon * direction) - here) / epsilon
        total += slope[(...,) + (None,) * (x.dim() - 1)] * direction
    return total * (x[0].numel() / len(directions))
