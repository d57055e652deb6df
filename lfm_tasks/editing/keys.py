"""What the edited matrices are given where a subject ends, and what stands there elsewhere: short passes, no target, no head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lfm_tasks.editing.method import Editing
from lfm_tasks.facts.locate import encode
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.partial import Start, until_seen

PASS_TOKENS = 2048
"""Tokens of one pass, padding counted."""
KEPT_TOKENS = 1 << 16
"""Of rows whose hidden states are kept from pass to pass; more are computed again."""


@dataclass(frozen=True)
class SubjectRows:
    """Every fact in every context, cut off behind the subject, which no token after it could change; facts outermost."""

    rows: tuple[Tensor, ...]
    """Token ids."""
    contexts: int

    def states(self, editing: Editing, inputs: Sequence[nn.Module] = (), outputs: Sequence[nn.Module] = ()) -> list[Tensor]:
        """What the modules are given or give at the subjects' last tokens, [facts, contexts, width] each."""
        return Climb(self, editing).states(inputs, outputs)


class Climb:
    """Passes over the same rows while weights change from layer to layer, upwards: what the layers below gave is not computed again."""

    def __init__(self, rows: SubjectRows, editing: Editing) -> None:
        self.rows, self.decoder = rows, editing.decoder
        order = sorted(range(len(rows.rows)), key=lambda place: len(rows.rows[place]))
        self.chunks = batches(order, [len(row) for row in rows.rows])
        self.back = torch.tensor(order).argsort()
        self.starts: list[Start | None] = [None] * len(self.chunks)
        self.keeps = sum(map(len, rows.rows)) <= KEPT_TOKENS

    def states(self, inputs: Sequence[nn.Module] = (), outputs: Sequence[nn.Module] = (), following: int | None = None) -> list[Tensor]:
        """As those of the rows. The next pass starts at the layer ``following``, of whose weights it may find others; without one, where
        this pass did."""
        found: list[list[Tensor]] = [[] for _ in (*inputs, *outputs)]
        above = [self.decoder.layers[following]] if following is not None and self.keeps else []
        for place, chunk in enumerate(self.chunks):
            last = torch.tensor([len(self.rows.rows[row]) - 1 for row in chunk])
            ids = pad_sequence([self.rows.rows[row] for row in chunk], batch_first=True)
            seen = until_seen(self.decoder, ids, [*above, *inputs], outputs, self.starts[place])
            if above:
                self.starts[place] = following, seen.pop(0)
            for kept, states in zip(found, seen, strict=True):
                kept.append(states[torch.arange(len(chunk)), last].cpu())
        return [torch.cat(kept)[self.back].unflatten(0, (-1, self.rows.contexts)) for kept in found]


def subject_rows(editing: Editing, facts: Sequence[Fact], contexts: Sequence[str]) -> SubjectRows:
    encoded = [encode(editing.tokenizer, fact, fact.target_new, context) for fact in facts for context in contexts]
    return SubjectRows(tuple(torch.tensor(one.input_ids[: one.subject_last + 1]) for one in encoded), len(contexts))


def opening_rows(editing: Editing, facts: Sequence[Fact]) -> SubjectRows:
    """Each subject as the first words of a text, whatever its prompt."""
    return subject_rows(editing, [replace(fact, prompt="{}") for fact in facts], [""])


def batches(order: Sequence[int], lengths: Sequence[int], tokens: int | None = None, like: float = math.inf) -> list[list[int]]:
    """``order``, by rising length, in chunks of at most ``tokens`` (else ``PASS_TOKENS``), padding counted, or of one row; the longest of a
    chunk is at most ``like`` times as long as its shortest."""
    chunks: list[list[int]] = []
    for place in order:
        chunk = chunks[-1] if chunks else []
        if chunk and (len(chunk) + 1) * lengths[place] <= (tokens or PASS_TOKENS) and lengths[place] <= like * lengths[chunk[0]]:
            chunk.append(place)
        else:
            chunks.append([place])
    return chunks
