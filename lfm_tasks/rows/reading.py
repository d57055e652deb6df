"""Read the mapped columns of a raw data set as text: JSONL, CSV and Parquet files.

Every value becomes a string, or None where it is absent; what a file says wrongly is named by file and line or byte.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from lfm_tasks.errors import DataError

SUFFIXES = (".jsonl", ".csv", ".parquet")
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation"} | {
    "dev": "validation",
    "test": "test",
}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class RawRow:
    """``values`` are in the order of the columns asked for; ``split`` is what the data say, or None; ``origin`` names the row."""

    values: tuple[str | None, ...]
    split: str | None
    origin: str


def read_rows(directory: Path, columns: list[str], split_by: str = "hash", split_column: str = "split") -> list[RawRow]:
    """Every row of every data file below ``directory``, files in order of their names.

    Raises :class:`DataError` for no files, no rows, a missing column, bytes that are not UTF-8, a malformed line, a nested
    value, or an unknown split.
    """
    files = _data_files(directory)
    rows: list[RawRow] = []
    for path in files:
        name = path.relative_to(directory).as_posix()
        file_split = split_of_file(name) if split_by == "file" else None
        wanted = [*columns, *([split_column] if split_by == "column" else [])]
        for position, values in _read_file(path, name, wanted):
            origin = f"{name}:{position}"
            texts = tuple(as_text(value, column, origin) for value, column in zip(values, wanted, strict=True))
            split = split_of(texts[-1], split_column, origin) if split_by == "column" else file_split
            rows.append(RawRow(texts[: len(columns)], split, origin))
    if not rows:
        raise DataError(f"The data set is empty: {', '.join(p.name for p in files)} holds no rows. Give data with at least one row.")
    return rows


def _data_files(directory: Path) -> list[Path]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        there = ", ".join(path.name for path in files[:5]) or "nothing"
        raise DataError(f"The data set holds no {', '.join(SUFFIXES)} file; it holds {there}. Convert the rows to one of these.")
    return found


def _read_file(path: Path, name: str, columns: list[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(line or row number, values) of one file."""
    if path.suffix.lower() == ".jsonl":
        return _read_jsonl(path, name, columns)
    if path.suffix.lower() == ".csv":
        return _rows_of(_read_csv(path, name), name, columns, first=2)
    return _rows_of(_read_parquet(path, name), name, columns, first=1)


def _read_jsonl(path: Path, name: str, columns: list[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    _check_utf8(path, name)
    seen: set[str] = set()
    lines = 0
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = _parse_line(line, name, number)
            seen.update(row)
            lines += 1
            yield number, tuple(row.get(column) for column in columns)
    if lines:
        _check_columns(columns, seen, name)


def _parse_line(line: str, name: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}, line {number}: not valid JSON ({error}). Each line is one JSON object, with no comma after it.") from None
    if not isinstance(row, dict):
        raise DataError(f'{name}, line {number}: a {type(row).__name__}, not an object. Write each row as {{"column": value, …}}.')
    return row


def _read_csv(path: Path, name: str) -> pa.Table:
    _check_utf8(path, name)
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty. A CSV file begins with a line of column names.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file))
    try:
        return pa_csv.read_csv(
            path,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types={column: pa.string() for column in header}, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{name} is not a valid CSV file: {error}. Every row needs as many values as the header; quote commas.") from None


def _read_parquet(path: Path, name: str) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{name} is not a valid Parquet file: {error}. Write it again.") from None


def _rows_of(table: pa.Table, name: str, columns: list[str], first: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    if table.num_rows:
        _check_columns(columns, table.column_names, name)
        values = [table[column].to_pylist() for column in columns]
        yield from enumerate(zip(*values, strict=True), start=first)


def _check_columns(columns: Iterable[str], there: Iterable[str], name: str) -> None:
    known = sorted(there)
    missing = [column for column in columns if column not in known]
    if missing:
        raise DataError(
            f"{name} has no column {', '.join(map(repr, missing))}. Its columns: {', '.join(known)}. "
            "Name one of them in the columns and templates of step prepare."
        )


def _check_utf8(path: Path, name: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = done - pending + error.start
                raise DataError(
                    f"{name} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset:,}. "
                    "Convert it, e.g. `iconv -f LATIN1 -t UTF-8`."
                ) from None
            if not block:
                return
            done += len(block)


def as_text(value: Any, column: str, origin: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _encodable(value, column, origin)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise DataError(f"{origin}: column '{column}' holds a {type(value).__name__}; text, numbers and booleans can be used. Flatten it.")


def _encodable(text: str, column: str, origin: str) -> str:
    """JSON can spell half of a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{origin}: column '{column}' holds half a surrogate pair at character {error.start}. Remove it.") from None
    return text


def split_of(value: str | None, column: str, origin: str) -> str:
    if value is None or value.strip().lower() not in SPLIT_NAMES:
        raise DataError(f"{origin}: column '{column}' names the split {value!r}. Allowed: {', '.join(SPLIT_NAMES)}.")
    return SPLIT_NAMES[value.strip().lower()]


def split_of_file(name: str) -> str:
    words = re.split(r"[^a-z]+", name.lower())
    found = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    if not found:
        raise DataError(f"The file name {name} says no split. Name it after one of {', '.join(SPLIT_NAMES)}, or split by hash.")
    return found[-1]
