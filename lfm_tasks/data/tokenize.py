"""From rows to token ids that fit ``max_length``: prompts and texts are cut at token boundaries, completions never.

The ids of an instruction are those of the prompt followed by those of the completion, each tokenized alone: the boundary is
exact, and equals what generation sees, which tokenizes the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.data.splits import Row
from lfm_tasks.data.templates import Chat, Plain
from lfm_tasks.errors import DataError
from lfm_tasks.models.tokenizers import special_frame
from lfm_tasks.rows.ids import content_hash
from lfm_tasks.rows.templates import fill

Offsets = list[tuple[int, int]]
Values = dict[str, str]
_CHARACTERS_A_TOKEN = 6
"""Only so much of a long text is tokenized to find where it is cut; a text that fits all the same is taken whole."""


@dataclass(frozen=True)
class Example:
    """One row of a prepared data set: the values of its Parquet columns, and whether its text was cut."""

    fields: dict[str, Any]
    truncated: bool = False


Encoder = Callable[[list[Row]], list[Example]]


def make_encoder(config: PrepareConfig, tokenizer: PreTrainedTokenizerBase, labels: list[str]) -> Encoder:
    """The function that encodes a batch of rows for the config's task."""
    if config.append_eos and config.task != "classification" and tokenizer.eos_token_id is None:
        raise DataError("The tokenizer has no end-of-sequence token. Set append_eos to false.")
    kinds = {"instruction": InstructionEncoder, "classification": ClassificationEncoder, "text": TextEncoder}
    return kinds[config.task](config, tokenizer, labels)


class InstructionEncoder:
    def __init__(self, config: PrepareConfig, tokenizer: PreTrainedTokenizerBase, labels: list[str]) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._form = Chat(tokenizer, config.system_prompt) if config.template == "chat" else Plain(tokenizer)
        self._closing = self._form.closing if config.append_eos else []
        self._labels = {label: index for index, label in enumerate(labels)}

    def completion(self, values: dict[str, str]) -> str:
        return self._form.completion(fill(self._config.completion_template, values))

    def __call__(self, rows: list[Row]) -> list[Example]:
        completions = [self.completion(row.values) for row in rows]
        completion_ids = [ids + self._closing for ids in self._ids(completions)]
        rooms = [self._room(row, ids) for row, ids in zip(rows, completion_ids, strict=True)]
        prompts, prompt_ids, cut = self._fit(rows, rooms)
        examples = []
        for position, row in enumerate(rows):
            prompt = self._form.prefix + prompt_ids[position]
            fields = {
                "sample_id": row.sample_id,
                "input_ids": prompt + completion_ids[position],
                "prompt_tokens": len(prompt),
                "prompt": prompts[position],
                "completion": completions[position],
                "label": self._labels.get(row.values.get(self._config.label_column, ""), -1),
            }
            examples.append(Example(fields, position in cut))
        return examples

    def _room(self, row: Row, completion: list[int]) -> int:
        room = self._config.max_length - len(self._form.prefix) - len(completion)
        if room < 1:
            raise DataError(
                f"{row.origin}: the completion alone has {len(completion)} tokens; max_length, prompt included, is "
                f"{self._config.max_length}. Raise max_length, or shorten or remove the row."
            )
        return room

    def _fit(self, rows: list[Row], rooms: list[int]) -> tuple[list[str], list[list[int]], set[int]]:
        """Prompts, their ids, and which of them were cut.

        Where a prompt does not fit, its columns are cut to one common length in tokens; shorter columns stay whole.
        """
        columns = self._config.prompt_columns
        clip = _CHARACTERS_A_TOKEN * self._config.max_length
        whole = [{column: row.values[column] for column in columns} for row in rows]
        values = [{column: text[:clip] for column, text in each.items()} for each in whole]
        prompts, ids = self._prompts(values)
        fits = [i for i, room in enumerate(rooms) if len(ids[i]) <= room and values[i] != whole[i]]
        self._again(fits, [whole[i] for i in fits], values, prompts, ids)
        cut: set[int] = set()
        while over := [position for position, room in enumerate(rooms) if len(ids[position]) > room]:
            cut.update(over)
            offsets = {column: tokens_of(self._tokenizer, [values[i][column] for i in over])[1] for column in columns}
            shorter = []
            for index, i in enumerate(over):
                lengths = {column: len(found[index]) for column, found in offsets.items()}
                level = common_length(list(lengths.values()), len(ids[i]) - rooms[i])
                if level < 1:
                    self._refuse(rows[i], len(ids[i]) - sum(lengths.values()))
                texts = {c: shorten(values[i][c], offsets[c][index], level) if lengths[c] > level else values[i][c] for c in columns}
                shorter.append(texts)
            self._again(over, shorter, values, prompts, ids)
        return prompts, ids, cut

    def _again(self, positions: list[int], changed: list[Values], values: list[Values], prompts: list[str], ids: list[list[int]]) -> None:
        """Render and tokenize anew, in place, the rows whose values changed."""
        for i, each, prompt, found in zip(positions, changed, *self._prompts(changed), strict=True):
            values[i], prompts[i], ids[i] = each, prompt, found

    def _prompts(self, values: list[Values]) -> tuple[list[str], list[list[int]]]:
        prompts = [self._form.prompt(fill(self._config.prompt_template, each)) for each in values]
        return prompts, self._ids(prompts)

    def _refuse(self, row: Row, fixed: int) -> None:
        raise DataError(
            f"{row.origin}: the prompt's fixed part ({fixed} tokens) and the completion leave no room for the text in max_length "
            f"{self._config.max_length}. Raise max_length or shorten the template."
        )

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids


class ClassificationEncoder:
    def __init__(self, config: PrepareConfig, tokenizer: PreTrainedTokenizerBase, labels: list[str]) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._prefix, self._suffix = special_frame(tokenizer)
        self._labels = {label: index for index, label in enumerate(labels)}

    def __call__(self, rows: list[Row]) -> list[Example]:
        room = self._config.max_length - len(self._prefix) - len(self._suffix)
        texts = [row.values[self._config.text_column] for row in rows]
        all_ids, all_offsets = tokens_of(self._tokenizer, texts)
        examples = []
        for row, text, ids, offsets in zip(rows, texts, all_ids, all_offsets, strict=True):
            truncated = len(ids) > room
            fields = {
                "sample_id": row.sample_id,
                "input_ids": self._prefix + ids[:room] + self._suffix,
                "text": text[: offsets[room - 1][1]] if truncated else text,
                "label": self._labels[row.values[self._config.label_column]],
            }
            examples.append(Example(fields, truncated))
        return examples


class TextEncoder:
    """Texts as consecutive blocks: their ids in order are the whole text's ids, their texts in order are the whole text."""

    def __init__(self, config: PrepareConfig, tokenizer: PreTrainedTokenizerBase, labels: list[str]) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._prefix = special_frame(tokenizer)[0]
        self._closing = [tokenizer.eos_token_id] if config.append_eos else []

    def __call__(self, rows: list[Row]) -> list[Example]:
        texts = [row.values[self._config.text_column] for row in rows]
        examples = []
        for row, text, ids, offsets in zip(rows, texts, *tokens_of(self._tokenizer, texts), strict=True):
            whole = self._prefix + ids + self._closing
            bounds = block_bounds(len(whole), self._config.max_length)
            for index, (start, end) in enumerate(bounds):
                fields = {
                    "sample_id": row.sample_id if len(bounds) == 1 else content_hash([row.sample_id, index]),
                    "input_ids": whole[start:end],
                    "text": text[self._character(start, offsets, text) : self._character(end, offsets, text)],
                }
                examples.append(Example(fields))
        return examples

    def _character(self, token: int, offsets: Offsets, text: str) -> int:
        """Where the text of token number ``token`` begins."""
        position = token - len(self._prefix)
        if position <= 0:
            return 0
        return offsets[position][0] if position < len(offsets) else len(text)


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[list[list[int]], list[Offsets]]:
    """Ids and character offsets of each text, without special tokens."""
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    return found.input_ids, found.offset_mapping


def common_length(lengths: list[int], excess: int) -> int:
    """The largest length to which all longer ones can be cut so that at least ``excess`` is saved; 0 where none saves enough."""
    left = sum(lengths) - excess
    for position, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - position)
        if length > share:
            return max(share, 0)
        left -= length
    return max(lengths)


def shorten(text: str, offsets: Offsets, keep: int) -> str:
    """The text of the first ``keep`` tokens, always shorter than ``text``: a character that several tokens spell goes whole."""
    keep = min(keep, len(offsets))
    while keep > 0 and offsets[keep - 1][1] >= len(text):
        keep -= 1
    return text[: offsets[keep - 1][1]] if keep > 0 else ""


def block_bounds(length: int, block: int) -> list[tuple[int, int]]:
    """Consecutive bounds of at most ``block`` tokens. No last block of a single token: it would have nothing to predict from."""
    starts = list(range(0, length, block)) or [0]
    if len(starts) > 1 and length - starts[-1] == 1:
        starts[-1] -= 1
    return list(zip(starts, [*starts[1:], length], strict=True))
