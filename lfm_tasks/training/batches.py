"""Which examples make up a step, how a step is cut into forward passes, and the tensors of one pass.

The examples of a step depend on (seed, epoch) alone; neither packing nor the size of a forward pass changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lfm_tasks.seeds import derive_seed
from lfm_tasks.training.split import Split


@dataclass(frozen=True)
class Batch:
    """The tensors of one forward pass.

    Language models: ``targets`` ``[count]`` are the tokens to predict and ``positions`` ``[rows, length]`` the mask of the
    places that predict them, in row-major order. Classification: ``targets`` ``[rows]`` are classes, ``positions`` None.
    ``lengths`` is set for a packed row: the sequences that it holds, end to end. ``examples`` are the places of the sequences in
    their split, in the order of the rows or of ``lengths``. ``weights`` ``[count]`` are those of the targets' losses; None: all 1.
    """

    input_ids: Tensor
    targets: Tensor
    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    positions: Tensor | None = None
    lengths: tuple[int, ...] = ()
    examples: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    """Tokens of each row, where rows are padded."""
    weights: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with."""
        named = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "position_ids": self.position_ids}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """The order of a run: ``steps`` optimiser steps, ``per_epoch`` of them in a pass over ``count`` examples."""

    count: int
    batch_size: int
    steps: int
    seed: int

    @property
    def per_epoch(self) -> int:
        return -(-self.count // self.batch_size)

    def examples(self, step: int) -> list[int]:
        """Indices of the examples of ``step`` (from 0). The last step of an epoch may have fewer."""
        epoch, place = divmod(step, self.per_epoch)
        return epoch_order(self.count, self.seed, epoch)[place * self.batch_size : (place + 1) * self.batch_size]


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator).tolist()


def chunk_by_length(examples: Sequence[int], lengths: Sequence[int], size: int, capacity: int) -> list[list[int]]:
    """Groups of like length, longest first (what does not fit in memory fails at once): at most ``size`` examples and, with
    their padding, ``capacity`` tokens; a longer example is alone."""
    groups: list[list[int]] = []
    for index in sorted(examples, key=lambda index: (-lengths[index], index)):
        group = groups[-1] if groups else []
        if group and len(group) < size and lengths[group[0]] * (len(group) + 1) <= capacity:
            group.append(index)
        else:
            groups.append([index])
    return groups


def pack(examples: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of at most ``capacity`` tokens by best-fit decreasing; a longer example has a row of its own."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(examples, key=lambda index: (-lengths[index], index)):
        fitting = [row for row, free in enumerate(room) if free >= lengths[index]]
        if fitting:
            row = min(fitting, key=lambda row: room[row])
            rows[row].append(index)
            room[row] -= lengths[index]
        else:
            rows.append([index])
            room.append(capacity - lengths[index])
    return rows


def padded_batch(split: Split, examples: Sequence[int], pad: int, *, labels: bool) -> Batch:
    """Rows padded on the right. A decoder needs no mask for that: nothing attends to what comes after it."""
    tokens = [split.tokens[index] for index in examples]
    sizes = tuple(len(ids) for ids in tokens)
    longest = max(sizes)
    input_ids = np.full((len(tokens), longest), pad)
    for row, ids in enumerate(tokens):
        input_ids[row, : len(ids)] = ids
    if labels:
        mask = np.arange(longest) < np.array(sizes)[:, None]
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(split.labels[list(examples)]),
            attention_mask=None if mask.all() else torch.from_numpy(mask.astype(np.int64)),
            examples=tuple(examples),
            sizes=sizes,
        )
    positions = np.zeros((len(tokens), longest), dtype=bool)
    for row, index in enumerate(examples):
        positions[row, split.first[index] - 1 : len(tokens[row]) - 1] = True
    return Batch(
        torch.from_numpy(input_ids),
        _targets(split, examples),
        positions=torch.from_numpy(positions),
        examples=tuple(examples),
        sizes=sizes,
        weights=_weights(split, examples),
    )


def packed_batch(split: Split, examples: Sequence[int]) -> Batch:
    """One row of several examples, end to end, whose positions begin anew at each."""
    tokens = [split.tokens[index] for index in examples]
    lengths = tuple(len(ids) for ids in tokens)
    positions = np.concatenate(
        [
            (np.arange(length) >= split.first[index] - 1) & (np.arange(length) < length - 1)
            for index, length in zip(examples, lengths, strict=True)
        ]
    )
    return Batch(
        torch.from_numpy(np.concatenate(tokens))[None],
        _targets(split, examples),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        positions=torch.from_numpy(positions)[None],
        lengths=lengths,
        examples=tuple(examples),
        weights=_weights(split, examples),
    )


def count_targets(split: Split, examples: Sequence[int], *, labels: bool) -> int:
    """Predictions that the loss of these examples is averaged over."""
    if labels:
        return len(examples)
    return sum(len(split.tokens[index]) - int(split.first[index]) for index in examples)


def _weights(split: Split, examples: Sequence[int]) -> Tensor | None:
    if split.weights is None:
        return None
    counts = [len(split.tokens[index]) - int(split.first[index]) for index in examples]
    return torch.from_numpy(np.repeat(split.weights[list(examples)], counts).astype(np.float32))


def _targets(split: Split, examples: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.concatenate([split.tokens[index][split.first[index] :] for index in examples]))
