"""Small prepared data sets, written as the step *prepare* writes them, for a toy model's tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest

TOPICS = ["business", "politics", "sport", "tech"]
WORDS = ("the", "bank", "cup", "minister", "phone", "election", "raised", "scored", "fell", "award", "final", "chip", "fox")


def sentence(index: int, words: int) -> str:
    return " ".join(WORDS[(index * 7 + k * k + 3 * k) % len(WORDS)] for k in range(words)) + f" {index}"


def write_instructions(directory: Path, model: Path, count: int = 24, *, labels: list[str] = TOPICS, choices: bool = True) -> Path:
    """Prompts of many lengths, completed by one of the labels."""
    tokenizer, rows = open_tokenizer(model), []
    for index in range(count):
        label = index % len(labels)
        prompt, completion = f"Article: {sentence(index, 3 + index % 9)}\nTopic:", f" {labels[label]}"
        asked = tokenizer.encode(prompt, add_special_tokens=False)
        answer = tokenizer.encode(completion, add_special_tokens=False)
        rows.append(
            {
                "sample_id": identity(prompt),
                "input_ids": [*asked, *answer, tokenizer.eos_token_id],
                "prompt_tokens": len(asked),
                "prompt": prompt,
                "completion": completion,
                "label": label if choices else -1,
            }
        )
    completions = [f" {label}" for label in labels] if choices else []
    return write_prepared(directory, model, "instruction", rows, labels=labels if choices else [], completions=completions)


def write_labelled(directory: Path, model: Path, count: int = 24, *, labels: list[str] = TOPICS) -> Path:
    tokenizer, rows = open_tokenizer(model), []
    for index in range(count):
        text = sentence(index, 3 + index % 9)
        rows.append({"sample_id": identity(text), "input_ids": tokenizer.encode(text), "text": text, "label": index % len(labels)})
    return write_prepared(directory, model, "classification", rows, labels=labels)


def write_texts(directory: Path, model: Path, count: int = 12) -> Path:
    tokenizer, rows = open_tokenizer(model), []
    for index in range(count):
        text = sentence(index, 5 + 2 * index)
        rows.append({"sample_id": identity(text), "input_ids": tokenizer.encode(text), "text": text})
    return write_prepared(directory, model, "text", rows)


def write_prepared(directory: Path, model: Path, task: str, rows: list[dict[str, Any]], **described: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    description = {
        "format": 1,
        "task": task,
        "tokenizer_sha256": tokenizer_digest(model),
        "vocabulary": len(open_tokenizer(model)),
        "labels": [],
        "completions": [],
        "max_length": 128,
    }
    (directory / "dataset.json").write_text(json.dumps(description | described))
    table = pa.Table.from_pylist(rows)
    narrow = {"input_ids": pa.list_(pa.int32()), "prompt_tokens": pa.int32(), "label": pa.int32()}
    schema = pa.schema([(field.name, narrow.get(field.name, field.type)) for field in table.schema])
    for split in ("validation", "test"):
        pq.write_table(table.cast(schema), directory / f"{split}.parquet")
    return directory


def identity(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
