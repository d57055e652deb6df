"""Several sequences in one row with no attention across them, and logits only where they are needed.

Works on any decoder of transformers that accepts a 4-D attention mask and ``position_ids`` and has an output embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PADDING = -1


def packed_mask(sequence: Tensor, branch: Tensor | None = None) -> Tensor:
    """Which token may attend to which, as a boolean mask ``[batch, 1, length, length]`` (True: may attend).

    ``sequence`` ``[batch, length]`` numbers the packed sequences of a row; ``PADDING`` marks padding. ``branch``
    ``[batch, length]`` splits the end of a sequence into alternatives: 0 is the trunk, which every branch of its
    sequence sees; branches do not see one another. A padding token sees itself only, so no row of the softmax is empty.
    """
    length = sequence.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=sequence.device).tril()
    allowed = causal & (sequence[:, :, None] == sequence[:, None, :])
    if branch is not None:
        allowed &= (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    allowed &= (sequence != PADDING)[:, None, :]
    allowed |= torch.eye(length, dtype=torch.bool, device=sequence.device)
    return allowed[:, None]


@contextmanager
def logits_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Inside the block ``model(...).logits`` is ``[1, count, vocab]``: only the positions where the boolean mask
    ``positions`` ``[batch, length]`` is True, in row-major order.

    The output embedding costs ``2 * hidden * vocab`` operations a token, a fifth of a small model; skipping it where no
    logit is read changes no value elsewhere.
    """

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][positions][None], *arguments[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
