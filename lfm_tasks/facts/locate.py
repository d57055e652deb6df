"""A fact as tokens: prompt and target encoded as one text, the subject's last token found by character offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lfm_tasks.errors import DataError
from lfm_tasks.facts.record import Fact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """Ids of prefix, prompt and target; no padding."""

    input_ids: tuple[int, ...]
    target_start: int
    """Place of the target's first token."""
    subject_last: int
    """Place of the last token that holds a character of the subject."""

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.input_ids[self.target_start :]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.target_start]


def encode(tokenizer: PreTrainedTokenizerBase, fact: Fact, target: str, prefix: str = "") -> Encoded:
    """``prefix`` + the fact's prompt + a space + ``target``, with the special tokens that the tokenizer adds to a text.

    A token that holds characters of both the prompt and the target counts to the target, so that its logits are asked for. Raises
    :class:`DataError` for a tokenizer without offsets, an empty target, and a subject of which no token is left before the target.
    """
    text, (start, end) = prefix + fact.text, fact.subject_span
    input_ids, offsets = with_offsets(tokenizer, f"{text.rstrip(' ')} {target}")
    target_start = first_after(offsets, len(text.rstrip(" ")))
    inside = [place for place, (a, b) in enumerate(offsets[:target_start]) if a < b and a < len(prefix) + end and b > len(prefix) + start]
    if not target.strip() or target_start == len(input_ids):
        raise DataError(f"Fact {fact.id}: the target {target!r} has no token. Give a text that is not empty.")
    if not inside:
        raise DataError(f"Fact {fact.id}: no token of the subject {fact.subject!r} stands before the target in {text!r}.")
    return Encoded(tuple(input_ids), target_start, inside[-1])


def with_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids, and the characters of each; (0, 0) for a special token."""
    if not tokenizer.is_fast:
        raise DataError(f"{type(tokenizer).__name__} gives no character offsets. Use a model with a tokenizer.json.")
    encoded = tokenizer(text, return_offsets_mapping=True)
    return encoded["input_ids"], encoded["offset_mapping"]


def first_after(offsets: list[tuple[int, int]], place: int) -> int:
    """The first token that holds a character at or after ``place``; trailing special tokens are not asked for."""
    return next((token for token, (start, end) in enumerate(offsets) if start < end and end > place), len(offsets))
