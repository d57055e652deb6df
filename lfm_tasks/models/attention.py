"""Several sequences in one row with no attention across them, and logits only where they are needed.

Works on any decoder of transformers that accepts a 4-D attention mask and ``position_ids`` and has an output embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

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


SEGMENTS = "lfm_segments"
BLOCK = 128


class _Segments:
    """Lengths of the sequences in the row that is being computed. One row at a time; autograd's own threads read it too."""

    lengths: tuple[int, ...] = ()


def can_segment(model: nn.Module) -> bool:
    """True for a model whose attention can be confined to segments: it looks its attention function up, is content with the
    plain one (``sdpa``), and has no state that runs through the row (as Mamba has)."""
    plain = model.config._attn_implementation == "sdpa" and getattr(model, "_supports_attention_backend", False)
    return bool(plain) and not getattr(model, "_is_stateful", False)


@contextmanager
def segmented(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model``, a decoder, computes rows ``[1, length]`` of several sequences; :func:`segments` says which.
    Rows ``[batch, length]`` of one sequence each, padded on the right, need no mask either.

    Attention is computed sequence by sequence, so a row costs what its sequences cost, and nothing leaks between them.
    Pass ``position_ids`` that begin anew at each sequence.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(SEGMENTS)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def unsegmented(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model`` attends as its mask says, though it be within :func:`segmented`: for rows padded on the left."""
    before = model.config._attn_implementation
    if before == SEGMENTS:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def segments(lengths: Sequence[int]) -> Iterator[None]:
    """The row that is computed inside the block, forwards and backwards, holds sequences of these lengths, end to end."""
    _Segments.lengths = tuple(lengths)
    try:
        yield
    finally:
        _Segments.lengths = ()


def segmented_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention of transformers' interface: ``query`` ``[batch, heads, length, width]`` to
    ``[batch, length, heads, width]``. ``attention_mask`` is not read."""
    _note(module, query, key, value, options.get("scaling"))
    window = options.get("sliding_window")
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    rows, start = [], 0
    for length in _Segments.lengths or (query.shape[2],):
        for first, end in _blocks(length, query.device):
            keys = slice(start, start + end)
            mask = _mask(first, end, window, query.device) if first or (window and end > window) else None
            part = query[:, :, start + first : start + end]
            rows.append(sdpa(module, part, key[:, :, keys], value[:, :, keys], mask, **options)[0])
        start += length
    return torch.cat(rows, dim=1), None


def _blocks(length: int, device: torch.device) -> list[tuple[int, int]]:
    """Ranges of queries that are computed at a time. The CPU's kernel also computes what the causal mask hides; cut into
    blocks, each with the keys up to its end, a sequence needs little more than half of that."""
    block = BLOCK if device.type == "cpu" else length
    return [(first, min(first + block, length)) for first in range(0, length, block)]


def _mask(first: int, end: int, window: int | None, device: torch.device) -> Tensor:
    """Which of the keys ``[0, end)`` the queries ``[first, end)`` may attend to, as ``[1, 1, queries, keys]``."""
    allowed = torch.ones(end - first, end, dtype=torch.bool, device=device).tril(first)
    return (allowed.triu(first + 1 - window) if window else allowed)[None, None]


AttentionInterface.register(SEGMENTS, segmented_attention)

OBSERVED = "lfm_observed"


@dataclass(frozen=True)
class Attended:
    """What one layer's attention was given: ``query`` ``[batch, heads, length, width]``; ``key`` and ``value`` have as many heads,
    those of a group repeated. Positions are in query and key already, where they are rotary."""

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float


_watched: dict[int, list[Attended]] = {}
"""By the identity of each module of a watched model."""


def can_observe(model: nn.Module) -> bool:
    """True for a model that looks its attention function up and is content with the plain one (``sdpa``)."""
    return model.config._attn_implementation in ("sdpa", SEGMENTS, OBSERVED) and bool(getattr(model, "_supports_attention_backend", False))


@contextmanager
def observable(model: nn.Module) -> Iterator[None]:
    """Inside the block :func:`attended` sees the attention of ``model``, of any kind, which computes as ever; so it does inside
    :func:`segmented`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(OBSERVED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def attended(model: nn.Module) -> Iterator[list[Attended]]:
    """The list fills, layer by layer, with what the attention of ``model`` is given in the passes inside the block."""
    seen: list[Attended] = []
    modules = [id(module) for module in model.modules()]
    _watched.update(dict.fromkeys(modules, seen))
    try:
        yield seen
    finally:
        for module in modules:
            del _watched[module]


def observed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    _note(module, query, key, value, options.get("scaling"))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)


def _note(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> None:
    if (seen := _watched.get(id(module))) is not None:
        group = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(group, dim=1) for one in (key, value))
        seen.append(Attended(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling))


AttentionInterface.register(OBSERVED, observed_attention)
AttentionMaskInterface.register(OBSERVED, sdpa_mask)
