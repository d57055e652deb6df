"""What the edited matrices are given where a subject ends, and what stands there elsewhere: short passes, no target, no head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lfm_tasks.editing.method import Editing
from lfm_tasks.facts.locate import encode
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.partial import until_seen

PASS_TOKENS = 2048
"""Tokens of one pass, padding counted."""


@dataclass(frozen=True)
class SubjectRows:
    """Every fact in every context, cut off behind the subject, which no token after it could change; facts outermost."""

    rows: tuple[Tensor, ...]
    """Token ids."""
    contexts: int

    def states(self, editing: Editing, inputs: Sequence[nn.Module] = (), outputs: Sequence[nn.Module] = ()) -> list[Tensor]:
        """What the modules are given or give at the subjects' last tokens, [facts, contexts, width] each."""
        order = sorted(range(len(self.rows)), key=lambda place: len(self.rows[place]))
        found: list[list[Tensor]] = [[] for _ in (*inputs, *outputs)]
        for chunk in batches(order, [len(row) for row in self.rows]):
            last = torch.tensor([len(self.rows[place]) - 1 for place in chunk])
            ids = pad_sequence([self.rows[place] for place in chunk], batch_first=True)
            for kept, states in zip(found, until_seen(editing.decoder, ids, inputs, outputs), strict=True):
                kept.append(states[torch.arange(len(chunk)), last].cpu())
        back = torch.tensor(order).argsort()
        return [torch.cat(kept)[back].unflatten(0, (-1, self.contexts)) for kept in found]


def subject_rows(editing: Editing, facts: Sequence[Fact], contexts: Sequence[str]) -> SubjectRows:
    encoded = [encode(editing.tokenizer, fact, fact.target_new, context) for fact in facts for context in contexts]
    return SubjectRows(tuple(torch.tensor(one.input_ids[: one.subject_last + 1]) for one in encoded), len(contexts))


def batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """``order``, by rising length, in chunks of at most ``PASS_TOKENS`` tokens or of one row."""
    chunks: list[list[int]] = []
    for place in order:
        if not chunks or (len(chunks[-1]) + 1) * lengths[place] > PASS_TOKENS:
            chunks.append([])
        chunks[-1].append(place)
    return chunks
