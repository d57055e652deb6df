"""What a model says to many prompts: under teacher forcing, where it is given the answer token by token, and left to itself.

Equal prompts are asked once. An answer is encoded together with its prompt, as one text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import LogitsProcessorList

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.likelihood import Progress, Query, continuation, log_probabilities_and_likeliest
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.facts.locate import encode_answer, with_offsets
from lfm_tasks.models.generating import generate, stop_tokens
from lfm_tasks.models.memories.prompting import rewrite

Tokens = NDArray[np.int64]
Pair = tuple[str, str]
"""Prompt and answer."""
ROOM = 2
"""Tokens past the longest answer, so that its end is seen."""


@dataclass(frozen=True)
class Forced:
    """What was asked token by token of an answer: log-probabilities (nats), the tokens wanted, the likeliest tokens; all ``[tokens]``."""

    log_probability: NDArray[np.float64]
    wanted: Tokens
    likeliest: Tokens

    @property
    def probability(self) -> float:
        """exp of the mean log-probability, so that a long answer is not unlikely for its length."""
        return float(np.exp(self.log_probability.mean()))

    @property
    def hits(self) -> NDArray[np.bool_]:
        return self.wanted == self.likeliest


def forced(subject: Subject, pairs: Iterable[Pair], batch_tokens: int, progress: Progress = lambda done: None) -> dict[Pair, Forced]:
    """Each answer after its prompt. Raises :class:`DataError` for a text that is longer than the model takes."""
    unique = list(dict.fromkeys(pairs))
    queries = [_query(subject, prompt, answer) for prompt, answer in unique]
    holders = shared(queries)
    answers = log_probabilities_and_likeliest(
        subject.model, [merged([queries[i] for i in held]) for held in holders], batch_tokens, progress
    )
    found: dict[int, NDArray[np.float64]] = {}
    for held, answer in zip(holders, answers, strict=True):
        parts = np.split(answer, np.cumsum([len(queries[i].wanted) for i in held])[:-1])
        found |= dict(zip(held, parts, strict=True))
    return {pair: Forced(found[i][:, 0], queries[i].wanted, np.rint(found[i][:, 1]).astype(np.int64)) for i, pair in enumerate(unique)}


def shared(queries: Sequence[Query]) -> list[list[int]]:
    """Indices of queries that one pass can answer: the tokens of all others begin those of the first. Causal attention sees no more."""
    order = sorted(range(len(queries)), key=lambda i: queries[i].tokens.tolist(), reverse=True)
    holders: list[list[int]] = []
    for i in order:
        count = len(queries[i].tokens)
        if holders and np.array_equal(queries[holders[-1][0]].tokens[:count], queries[i].tokens):
            holders[-1].append(i)
        else:
            holders.append([i])
    return holders


def merged(queries: Sequence[Query]) -> Query:
    """All that the queries ask, of the tokens of the first."""
    return Query(queries[0].tokens, np.concatenate([query.after for query in queries]), np.concatenate([query.wanted for query in queries]))


def free_running(
    subject: Subject,
    prompts: Iterable[str],
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress = lambda done: None,
    processors: Callable[[Sequence[str]], LogitsProcessorList] | None = None,
) -> dict[str, str]:
    """The text after each prompt up to the end token; the likeliest token at each place, unless ``processors`` changes the logits."""
    unique = list(dict.fromkeys(prompts))
    ids = [_prompt_ids(subject, prompt, max_new_tokens) for prompt in unique]
    chosen = None if processors is None else lambda batch: processors([unique[i] for i in batch])
    made = generate(subject.model, ids, max_new_tokens, stop_tokens(subject.model, subject.tokenizer), batch_tokens, progress, chosen)
    return {prompt: subject.tokenizer.decode(tokens, skip_special_tokens=True) for prompt, tokens in zip(unique, made, strict=True)}


def answer_of(text: str) -> str:
    """A generated text up to its first line break (those before its first word aside), spaces made one."""
    return " ".join((text.strip().splitlines() or [""])[0].split())


def begins_with(answer: str, wanted: str) -> bool:
    """Whether ``answer`` begins with ``wanted``, and a word ends there."""
    said, asked = answer_of(answer), answer_of(wanted)
    return said.startswith(asked) and (len(said) == len(asked) or not _one_word(said[len(asked) - 1], said[len(asked)]))


def is_whole(answer: str, wanted: str) -> bool:
    return answer_of(answer) == answer_of(wanted)


def answer_room(subject: Subject, pairs: Iterable[Pair]) -> int:
    """Tokens of the longest answer, and :data:`ROOM`."""
    starts = (encode_answer(subject.tokenizer, subject.frame(prompt), answer) for prompt, answer in dict.fromkeys(pairs))
    return max((len(ids) - start for ids, _, start in starts), default=0) + ROOM


def asked_as(subject: Subject, prompt: str) -> str:
    """With what a memory puts before it, in the frame of the subject."""
    return subject.frame(rewrite(subject.model, prompt))


def _query(subject: Subject, prompt: str, answer: str) -> Query:
    ids, _, start = encode_answer(subject.tokenizer, asked_as(subject, prompt), answer)
    if start == 0:
        raise DataError(f"The prompt {prompt!r} has no token of its own before {answer!r}, which then has no probability. Lengthen it.")
    _check_length(subject, prompt, len(ids))
    return continuation(np.asarray(ids, np.int64), start)


def _prompt_ids(subject: Subject, prompt: str, more: int) -> Tokens:
    """The prompt alone, without what the tokenizer puts at the end of a text."""
    ids, offsets = with_offsets(subject.tokenizer, asked_as(subject, prompt).rstrip(" "))
    count = max((place + 1 for place, (_, end) in enumerate(offsets) if end > 0), default=0)
    if not count:
        raise DataError(f"The prompt {prompt!r} has no token. Give it some text.")
    _check_length(subject, prompt, count + more)
    return np.asarray(ids[:count], np.int64)


def _check_length(subject: Subject, prompt: str, count: int) -> None:
    limit = getattr(subject.model.config, "max_position_embeddings", None)
    if limit and count > limit:
        raise DataError(f"The prompt {prompt[:60]!r}… has {count:,} tokens with its answer; the model takes {limit:,}. Shorten it.")


def _one_word(first: str, second: str) -> bool:
    """Whether two characters side by side are inside one word. Chinese and its kin are written without spaces."""
    return first.isalnum() and second.isalnum() and unicodedata.east_asian_width(first) not in "WF"
