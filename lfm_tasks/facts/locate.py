"""A fact as tokens: prompt and target encoded as one text, the subject's last token found by character offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lfm_tasks.errors import DataError
from lfm_tasks.facts.record import Fact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = list[tuple[int, int]]


@dataclass(frozen=True)
class Encoded:
    """Ids of prefix, prompt and target; no padding."""

    input_ids: tuple[int, ...]
    target_start: int
    """Place of the target's first token."""
    subject_last: int
    """Place of the last token that holds a character of the subject."""
    subject_first: int
    """Place of the first such token."""

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.input_ids[self.target_start :]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.target_start]


def encode(tokenizer: PreTrainedTokenizerBase, fact: Fact, target: str, prefix: str = "") -> Encoded:
    """``prefix`` + the fact's prompt + a space + ``target``, with the special tokens that the tokenizer puts before a text.

    Raises :class:`DataError` for a tokenizer without offsets, an empty target, a text longer than the tokenizer's context, and a
    subject of which no token is left before the target.
    """
    text, (start, end) = prefix + fact.text, fact.subject_span
    try:
        input_ids, offsets, target_start = encode_answer(tokenizer, text, target)
    except DataError as error:
        raise DataError(f"Fact {fact.id}: {error}") from None
    start, end = start + len(prefix), end + len(prefix)
    inside = [place for place, (a, b) in enumerate(offsets[:target_start]) if a < min(b, end) and b > start]
    if not inside:
        raise DataError(f"Fact {fact.id}: no token of the subject {fact.subject!r} stands before the target in {text!r}.")
    return Encoded(tuple(input_ids), target_start, inside[-1], inside[0])


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[list[int], Offsets, int]:
    """Ids of ``prompt`` and ``answer`` as one text, their characters, and the place of the answer's first token.

    One space parts the two, none where the prompt ends in a line break. A token that holds characters of both, and one that is that
    space alone, count to the answer, so that their logits are asked for. What the tokenizer puts after a text is left out.
    """
    text = prompt.rstrip(" ")
    input_ids, offsets = with_offsets(tokenizer, text + ("" if text.endswith("\n") else " ") + answer.strip())
    count = max((place + 1 for place, (_, end) in enumerate(offsets) if end > 0), default=0)
    start = next((place for place, (_, end) in enumerate(offsets) if end > len(text)), count)
    if not answer.strip() or start == count:
        raise DataError(f"the target {answer!r} has no token. Give a text that is not empty.")
    if count > tokenizer.model_max_length:
        raise DataError(f"{text[:60]!r}… has {count:,} tokens with its target; the model takes {tokenizer.model_max_length:,}. Shorten it.")
    return input_ids[:count], offsets[:count], start


def with_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], Offsets]:
    """Ids, and the characters of each; (0, 0) for a special token that the tokenizer adds by itself.

    A text that begins with the token that begins texts (a chat template writes it) gets no second one.
    """
    if not tokenizer.is_fast:
        raise DataError(f"{type(tokenizer).__name__} gives no character offsets. Use a model with a tokenizer.json.")
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not begun, verbose=False)
    return encoded["input_ids"], encoded["offset_mapping"]
