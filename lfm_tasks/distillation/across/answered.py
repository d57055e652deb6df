"""Answers of an API in the place of a teacher that can be asked: how likely it found its own tokens, and which others it listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lfm_tasks.distillation.across.pairs import Pair, ids_by_text, paired, read_texts, target_spans
from lfm_tasks.distillation.across.spelling import spelled
from lfm_tasks.distillation.black_box.signals import TABLE
from lfm_tasks.distillation.divergences import NEVER
from lfm_tasks.errors import DataError
from lfm_tasks.models.prepared import read_description
from lfm_tasks.rows.ids import content_hash
from lfm_tasks.rows.templates import columns_of, fill
from lfm_tasks.training.split import Split

COLUMNS = ("prompt", "completion")
"""Of an answer's row, what a data set may be made of to be known as that of the answers."""
SAID = ("tokens", "logprob", "top_tokens", "top_logprobs")
BATCH = 512
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Words:
    """Of the teacher's tokens in one completion their log-probabilities ``log_p`` [tokens]; at the place of each those that it listed and
    the student has, by the student's ``ids`` [tokens, k] with ``listed`` [tokens, k]. A place with fewer repeats one with probability 0;
    -1: there is none."""

    log_p: NDArray[np.float32]
    ids: NDArray[np.int32]
    listed: NDArray[np.float32]


@dataclass(frozen=True)
class Answered:
    """By the examples of a training split, the chunks that both cut alike, none where no answer is the completion; and the words."""

    pairs: Sequence[Pair]
    words: Sequence[Words]

    @property
    def rows(self) -> int:
        """Examples that the teacher has something to say of."""
        return sum(pair.count > 0 for pair in self.pairs)

    @property
    def share(self) -> float:
        """Of those examples' targets, how many are in chunks."""
        found = np.concatenate([pair.ours < pair.count for pair in self.pairs if pair.count])
        return float(found.mean())


def open_answered(signals: Path, name: str, rows: Split, dataset: Path, tokenizer: PreTrainedTokenizerBase) -> Answered:
    """The answers in the directory ``signals``, which errors call ``name``, to ``rows``, the training split of ``dataset``.

    A row is an answer's where it was prepared from its prompt and completion: its id is their hash. Raises :class:`DataError` where no
    row is one, where a row does not say its answer, and where no answer has a chunk in its row.
    """
    description = read_description(dataset)
    template, columns = description["template"]["completion_template"], description["columns"]["all"]
    if not set(columns) <= set(COLUMNS) or "completion" not in columns_of(template):
        raise DataError(
            f"The data set is made of the columns {', '.join(columns)}: its rows cannot be known as the answers of {name}. Prepare the "
            "rows that came with them, with prompt_template '{prompt}', {completion} in the completion_template, and label_choices off."
        )
    texts, ids = read_texts(dataset, "completion"), ids_by_text(tokenizer)
    waiting = {key: row for row, key in enumerate(rows.sample_ids)}
    pairs = [Pair(np.zeros(size, np.int64), np.zeros(0, np.int64), 0, -1) for size in rows.lengths - rows.first]
    words = [Words(np.zeros(0, np.float32), np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32))] * len(rows)
    last: Row = {}
    for answer in read_answers(signals):
        key = content_hash({column: answer[column] for column in columns})
        if (row := waiting.pop(key, -1)) < 0:
            continue
        last = answer | {"whole": texts[key]}
        ours = target_spans(rows.tokens[row], int(rows.first[row]), texts[key], tokenizer, "completion", key)
        theirs, chosen = spans_in(texts[key], answer, template, key)
        lead = [(0, theirs[0][0])] if theirs and theirs[0][0] else []
        pairs[row] = paired(ours, (lead + theirs, len(lead)), row)
        words[row] = words_of({column: answer[column][chosen] for column in SAID}, ids)
    if len(waiting) == len(rows):
        raise DataError(
            f"None of the {len(rows)} training rows is an answer of {name}. Prepare the data set that ask_teacher made beside it."
        )
    found = Answered(pairs, words)
    if not found.rows:
        raise DataError(
            f"No tokens of {name} are a piece of a completion that the student cuts alike: of the answer {last['text'][:60]!r} they are "
            f"{last['tokens'][:8]}, and the completion is {last['whole'][:60]!r}. Where a template joins a space to the first word, "
            "prepare with completion_template '{completion}'; where tokens do not spell their answer, tune on it instead."
        )
    return found


def unanswered(teachers: Sequence[Answered]) -> int:
    """Examples that none of them has something to say of."""
    return sum(not any(pair.count for pair in pairs) for pairs in zip(*(one.pairs for one in teachers), strict=True))


def spans_in(whole: str, answer: Row, template: str, key: str) -> tuple[list[tuple[int, int]], slice]:
    """Spans in the completion ``whole`` of those tokens of an answer that are in it, and which tokens these are.

    What the answer and ``whole`` have in common may go beyond what was kept of the answer: a space before it, that the template put
    back. Raises :class:`DataError` where ``whole`` is not the answer in its template.
    """
    filled, before = fill(template, answer), fill(template.partition("{completion}")[0], answer)
    place = len(before) - (0 if whole == filled else len(filled) - len(filled.lstrip()))
    if whole not in (filled, filled.strip()):
        raise DataError(
            f"The completion of the row {key} is {whole[:60]!r}, and its answer {answer['completion'][:60]!r}. Prepare the answers again."
        )
    text, start, end = answer["text"], answer["start"], answer["end"]
    shift = place - start
    while min(start, start + shift) > 0 and text[start - 1] == whole[start - 1 + shift]:
        start -= 1
    while end < len(text) and end + shift < len(whole) and text[end] == whole[end + shift]:
        end += 1
    spans = spelled(answer["tokens"], text)
    inside = [token for token, (first, last) in enumerate(spans) if start <= first and last <= end]
    chosen = slice(inside[0], inside[-1] + 1) if inside else slice(0)
    return [(first + shift, last + shift) for first, last in spans[chosen]], chosen


def read_answers(directory: Path) -> Iterator[dict[str, Any]]:
    """Rows of the signals, with the ``completion`` that was made of each."""
    for batch in pq.ParquetFile(directory / TABLE).iter_batches(BATCH):
        for row in batch.to_pylist():
            yield row | {"completion": row["text"][row["start"] : row["end"]]}


def words_of(said: Mapping[str, Sequence[Any]], ids: Mapping[str, int]) -> Words:
    """Of the columns :data:`SAID`. ``ids`` are the student's by text; the token that was said counts as listed."""
    listed: list[dict[int, float]] = []
    for token, log_p, others, values in zip(*(said[name] for name in SAID), strict=True):
        likeliest_last = reversed([*zip(others, values, strict=True), (token, log_p)])
        listed.append({ids[text]: value for text, value in likeliest_last if text in ids})
    width = max(map(len, listed), default=0) or 1
    padded = [(next(iter(one), -1), width - len(one)) for one in listed]
    return Words(
        np.maximum(np.asarray(said["logprob"], np.float32), NEVER),
        np.array([[*one, *[pad] * more] for one, (pad, more) in zip(listed, padded, strict=True)], np.int32).reshape(-1, width),
        np.array([[*one.values(), *[NEVER] * more] for one, (_, more) in zip(listed, padded, strict=True)], np.float32).reshape(-1, width),
    )
