"""Rows of one text in the tokens of the student and of its teacher: chunks over their targets, and the tokens that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lfm_tasks.distillation.across.chunks import Spans, aligned
from lfm_tasks.errors import DataError
from lfm_tasks.training.split import Split

TEXTS = {"completion": "completion", "tokens": "text"}
"""By objective, the column that holds what the targets say."""


@dataclass(frozen=True)
class Pair:
    """One row. ``ours[k]`` and ``theirs[k]`` are the chunk of the target k of either side, ``count`` for none."""

    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]
    count: int
    teacher_row: int

    def starts(self) -> list[tuple[int, int]]:
        """Targets (ours, theirs) that begin a chunk: what comes before them is the same text on both sides."""
        ours, theirs = (np.unique(side, return_index=True)[1][: self.count].tolist() for side in (self.ours, self.theirs))
        return list(zip(ours, theirs, strict=True))

    def single(self) -> NDArray[np.bool_]:
        """Of each chunk, whether it is one token on both sides."""
        return np.logical_and(*(np.bincount(side, minlength=self.count + 1)[: self.count] == 1 for side in (self.ours, self.theirs)))


@dataclass(frozen=True)
class Across:
    """The rows of one training split in both tokenizations."""

    teacher_rows: Split
    pairs: Sequence[Pair]
    shared: tuple[Tensor, Tensor]
    """Ids of the tokens that both have, ours and theirs."""
    pad: int


def pairs(
    ours: Split, theirs: Split, texts: Mapping[str, str], tokenizers: Sequence[PreTrainedTokenizerBase], objective: str
) -> list[Pair]:
    """For each row of ``ours``, by its id. ``texts`` is what the rows' targets say; ``tokenizers`` are ours and theirs.

    Raises :class:`DataError` for a row that ``theirs`` has not, or whose tokens are not those of its text.
    """
    places = {key: row for row, key in enumerate(theirs.sample_ids)}
    found = []
    for row, key in enumerate(ours.sample_ids):
        if key not in places:
            raise DataError(
                f"The row {key} of the data set is not in the teacher's. Prepare both from the same rows, by the same options, each in the "
                "tokenizer of its own model."
            )
        sides = [(ours, row), (theirs, places[key])]
        spans = [
            target_spans(split.tokens[index], int(split.first[index]), texts[key], tokenizer, objective, key)
            for (split, index), tokenizer in zip(sides, tokenizers, strict=True)
        ]
        found.append(paired(*spans, places[key]))
    return found


def target_spans(
    tokens: NDArray[np.int64], first: int, text: str, tokenizer: PreTrainedTokenizerBase, objective: str, key: str
) -> tuple[Spans, int]:
    """Spans of a row's tokens in its text, and how many of them are no targets. Tokens behind the text's end stand for one more character.

    Raises :class:`DataError` where the tokens are not those of the text.
    """
    said = tokens[first:] if objective == "completion" else tokens
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = np.asarray(encoded.input_ids, np.int64), encoded.offset_mapping
    for lead in range(1 if objective == "completion" else 3):
        body = said[lead:]
        same = min(len(body), len(ids))
        if (body[:same] == ids[:same]).all() and (same == len(ids) or same == len(body)):
            closing = [(len(text), len(text) + 1)] * (len(body) - same)
            return [(0, 0)] * lead + list(spans[:same]) + closing, 0 if objective == "completion" else first
    raise DataError(
        f"The tokens of the row {key} are not those of its text: {tokenizer.decode(said[:20])!r}…, where the text is {text[:60]!r}…. "
        "Prepare the data set again with this model."
    )


def paired(ours: tuple[Spans, int], theirs: tuple[Spans, int], teacher_row: int) -> Pair:
    """Of spans as :func:`target_spans` gives them; a chunk that holds what is no target is none."""
    found = aligned(ours[0], theirs[0])
    lost = [*found.ours[: ours[1]], *found.theirs[: theirs[1]]]
    names = np.full(found.count + 1, -1)
    kept = np.setdiff1d(np.arange(found.count), lost)
    names[kept] = np.arange(len(kept))
    names[names < 0] = len(kept)
    return Pair(names[found.ours[ours[1] :]], names[found.theirs[theirs[1] :]], len(kept), teacher_row)


def read_texts(directory: Path, objective: str) -> dict[str, str]:
    """By the rows' ids, of the split train."""
    table = pq.read_table(directory / "train.parquet", columns=["sample_id", TEXTS[objective]])
    return dict(zip(table["sample_id"].to_pylist(), table[TEXTS[objective]].to_pylist(), strict=True))


def shared_tokens(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Ids ``[shared]`` of the tokens that stand for the same text within a text, ours and theirs, in one order."""
    by_text = [ids_by_text(one) for one in (ours, theirs)]
    common = sorted(by_text[0].keys() & by_text[1].keys())
    return tuple(torch.tensor([side[text] for text in common], dtype=torch.long) for side in by_text)


def ids_by_text(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Of the :func:`token_texts`; of two tokens with one text the first."""
    return {text: token for token, text in reversed(list(enumerate(token_texts(tokenizer)))) if text}


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each token adds to a text that is under way; empty for special tokens and for parts of a character."""
    anchor = tokenizer("a", add_special_tokens=False).input_ids[-1]
    before, special = tokenizer.decode([anchor], clean_up_tokenization_spaces=False), set(tokenizer.all_special_ids)
    decoded = tokenizer.batch_decode([[anchor, token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    whole = [text[len(before) :] if text.startswith(before) and "\ufffd" not in text else "" for text in decoded]
    return ["" if token in special else text for token, text in enumerate(whole)]
