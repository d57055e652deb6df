"""The step *prepare*: raw rows in, tokenized splits out. Equal rows, config and tokenizer give equal bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lfm_tasks.data import report
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.data.images_config import PrepareImagesConfig
from lfm_tasks.data.parts import with_parts
from lfm_tasks.data.splits import (
    Counts,
    Row,
    capped,
    carve,
    conflicts,
    make_row,
    near_duplicates,
    ordered,
    without_duplicates,
    without_leaks,
)
from lfm_tasks.data.tokenize import Encoder, InstructionEncoder, make_encoder
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest
from lfm_tasks.rows.reading import SPLITS, RawRow, read_rows
from lfm_tasks.step import Input, Outcome, Output, StepContext

FORMAT = 1
BATCH = 512
COMPARED_ROWS = 50_000
"""Training rows that held-out rows are compared with for near-duplicates, first in hash order."""

_COMMON = [("sample_id", pa.string()), ("input_ids", pa.list_(pa.int32()))]
SCHEMAS = {
    "instruction": pa.schema(
        [*_COMMON, ("prompt_tokens", pa.int32()), ("prompt", pa.string()), ("completion", pa.string()), ("label", pa.int32())]
    ),
    "classification": pa.schema([*_COMMON, ("text", pa.string()), ("label", pa.int32())]),
    "text": pa.schema([*_COMMON, ("text", pa.string())]),
}


def run(config: PrepareConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Write ``train|validation|test.parquet``, ``dataset.json`` and ``report.md``.

    Raises :class:`DataError` when the rows cannot be used, naming the row, and :class:`ConfigError` when ``max_length`` is
    more than the model takes.
    """
    data, model = inputs["data"].path, inputs["model"].path
    tokenizer = open_tokenizer(model)
    _check_length(config.max_length, model, tokenizer.model_max_length)
    rows, counts = select_rows(config, data)
    labels = label_names(rows, config)
    warnings = check_labels(rows, labels, config)
    encoder = make_encoder(config, tokenizer, labels)
    tables, counts.truncated = encode_splits(rows, encoder, SCHEMAS[config.task], context)
    if config.parts:
        tables = with_parts(tables, rows, config.part_column, config.parts)
    counts.splits = report.statistics(tables, labels)
    description = {
        "format": FORMAT,
        "task": config.task,
        "tokenizer_sha256": tokenizer_digest(model),
        "vocabulary": len(tokenizer),
        "labels": labels,
        "completions": _completions(encoder, config, labels),
        "max_length": config.max_length,
        "counts": asdict(counts),
        "columns": {"input": config.input_columns, "all": config.columns, "label": config.label_column if config.has_labels else None},
        "template": _template(config),
        **({"parts": config.parts} if config.parts else {}),
    }
    return _write(description, tables, counts, warnings, context)


def select_rows(config: PrepareConfig, directory: Path) -> tuple[list[Row], Counts]:
    """As :func:`selected`, of what the directory holds."""
    return selected(config, read_rows(directory, config.columns, config.split_by, config.split_column))


def selected(config: PrepareConfig | PrepareImagesConfig, raw: list[RawRow]) -> tuple[list[Row], Counts]:
    """The rows that are kept, in hash order, and what became of the others."""
    columns, fractions = config.columns, (config.validation_fraction, config.test_fraction)
    counts = Counts(read=len(raw))
    made = [make_row(each, columns, config.input_columns, fractions, config.seed, config.group_column) for each in raw]
    rows = ordered([row for row in made if row is not None])
    counts.empty = counts.read - len(rows)
    if not rows:
        raise DataError(f"All {counts.read} rows are empty: in each, one of the columns {', '.join(columns)} is blank. Check the columns.")
    if config.split_by != "hash":
        rows = carve(rows, fractions, config.seed)
    if config.deduplicate:
        unique = without_duplicates(rows)
        counts.duplicates, rows = len(rows) - len(unique), unique
    apart = without_leaks(rows, config.leakage)
    counts.leaked, rows = len(rows) - len(apart), apart
    counts.conflicting = conflicts(rows, config.part_column)
    caps = {"train": config.max_train_samples, "validation": config.max_eval_samples, "test": config.max_eval_samples}
    within = capped(rows, caps)
    _check_class_coverage(rows, config)
    counts.capped, counts.kept = len(rows) - len(within), len(within)
    _check_splits(within, config)
    training = [row for row in within if row.split == "train"][:COMPARED_ROWS]
    counts.near_duplicates = near_duplicates([*training, *(row for row in within if row.split != "train")], config.input_columns)
    return within, counts


def label_names(rows: list[Row], config: PrepareConfig | PrepareImagesConfig) -> list[str]:
    """The distinct labels: in numeric order where all are whole numbers, else in alphabetical order."""
    if not config.has_labels:
        return []
    names = {row.values[config.label_column] for row in rows}
    whole = all(name.lstrip("-").isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if whole else None)


def check_labels(rows: list[Row], labels: list[str], config: PrepareConfig | PrepareImagesConfig) -> list[str]:
    """Raise :class:`DataError` for a single class; return warnings about labels that a cap left out of train."""
    if not config.has_labels:
        return []
    if len(labels) < 2:
        raise DataError(
            f"All rows have the label {labels[0]!r}; at least two labels are needed. Is '{config.label_column}' the label column?"
        )
    counted = Counter(row.values[config.label_column] for row in rows if row.split == "train")
    absent = [label for label in labels if label not in counted]
    if counted and absent:
        return [f"max_train_samples left no training row of {', '.join(absent)}. Raise it."]
    return []


def _check_class_coverage(rows: list[Row], config: PrepareConfig | PrepareImagesConfig) -> None:
    """A label of a held-out split that no training row has cannot be learnt; what a cap leaves out is not looked at here."""
    if not config.has_labels:
        return
    by_split = {name: {row.values[config.label_column] for row in rows if row.split == name} for name in SPLITS}
    unseen = sorted((by_split["validation"] | by_split["test"]) - by_split["train"])
    if by_split["train"] and unseen:
        raise DataError(
            f"The label {unseen[0]!r} is in a held-out split and never in train ({len(unseen)} such). "
            "Add rows of it, merge it with another label or remove it; another seed splits otherwise."
        )


def _check_splits(rows: list[Row], config: PrepareConfig | PrepareImagesConfig) -> None:
    there = Counter(row.split for row in rows)
    wanted = {
        "train": config.validation_fraction + config.test_fraction < 1,
        "validation": config.validation_fraction > 0,
        "test": config.test_fraction > 0,
    }
    for name, needed in wanted.items():
        if needed and not there[name]:
            raise DataError(
                f"The split {name} got none of the {len(rows)} rows. Give more rows, another fraction (0 means none is wanted) "
                "or another seed."
            )


def _check_length(max_length: int, model: Path, tokenizer_limit: int) -> None:
    path = model / "config.json"
    positions = json.loads(path.read_text()).get("max_position_embeddings") if path.is_file() else None
    limit = min(tokenizer_limit, positions or tokenizer_limit)
    if max_length > limit:
        raise ConfigError(f"max_length {max_length} is more than the model takes: {limit} tokens. Lower it.")


def encode_splits(rows: list[Row], encode: Encoder, schema: pa.Schema, context: StepContext) -> tuple[dict[str, pa.Table], int]:
    """A table per split, rows in their order, and how many rows were cut."""
    tables, truncated, done = {}, 0, 0
    for name in SPLITS:
        chosen = [row for row in rows if row.split == name]
        parts = [schema.empty_table()]
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            examples = encode(batch)
            parts.append(pa.Table.from_pylist([example.fields for example in examples], schema=schema))
            truncated += sum(example.truncated for example in examples)
            done += len(batch)
            context.report(done, len(rows))
        tables[name] = pa.concat_tables(parts).combine_chunks()
    return tables, truncated


def _completions(encoder: Encoder, config: PrepareConfig, labels: list[str]) -> list[str]:
    if not isinstance(encoder, InstructionEncoder):
        return []
    return [encoder.completion({config.label_column: label}) for label in labels]


def _template(config: PrepareConfig) -> dict[str, Any] | None:
    if config.task != "instruction":
        return None
    names = ("template", "prompt_template", "completion_template", "system_prompt", "append_eos")
    return {name: getattr(config, name) for name in names}


def _write(description: dict[str, Any], tables: dict[str, pa.Table], counts: Counts, warnings: list[str], context: StepContext) -> Outcome:
    directory = context.workdir / "dataset"
    directory.mkdir(parents=True)
    for name, table in tables.items():
        write_parquet(table, directory / f"{name}.parquet")
    (directory / "dataset.json").write_text(json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    compared = min(COMPARED_ROWS, counts.splits["train"]["rows"])
    (directory / "report.md").write_text(report.markdown(description, tables, compared, warnings), encoding="utf-8")
    figure = report.length_histogram(tables, description["max_length"], context.workdir / "figures" / "lengths.png")
    for warning in warnings:
        context.log(warning)
    summary = {
        "task": description["task"],
        "rows": {name: entry["rows"] for name, entry in counts.splits.items()},
        "labels": description["labels"][:20],
        "duplicates": counts.duplicates,
        "truncated": counts.truncated,
        "warnings": warnings,
    }
    return Outcome({"dataset": Output("dataset", directory)}, report.metrics(counts), summary, (directory / "report.md", figure))


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write without times or library metadata, so that equal tables are equal bytes."""
    pq.write_table(table, path, compression="zstd", compression_level=3, row_group_size=1 << 16, store_schema=False)
