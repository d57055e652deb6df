"""The step *prepare_images*: labelled images in, splits of plain pixels out. Equal images and config give equal bytes.

An image goes by the hash of its pixels, so that splits, duplicates and leaks are found as those of text are.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lfm_tasks.data.images_config import PrepareImagesConfig
from lfm_tasks.data.prepare import check_labels, label_names, selected, write_parquet
from lfm_tasks.data.splits import Row
from lfm_tasks.errors import DataError
from lfm_tasks.rows.reading import SPLITS, RawRow, as_text, split_of, split_of_file
from lfm_tasks.step import Input, Outcome, Output, StepContext

FORMAT = 1
TASK = "images"
SCHEMA = pa.schema([("sample_id", pa.string()), ("pixels", pa.binary()), ("label", pa.int32())])
BATCH = 2048
Pixels = dict[str, bytes]


def run(config: PrepareImagesConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Write ``train|validation|test.parquet`` and ``dataset.json``.

    ``pixels`` are bytes in the order channels, height, width. Raises :class:`DataError` when the images cannot be used.
    """
    raw, pixels, shape = read_images(config, inputs["data"].path, context)
    rows, counts = selected(config, raw)
    labels = label_names(rows, config)
    warnings = check_labels(rows, labels, config)
    directory = context.workdir / "dataset"
    directory.mkdir(parents=True)
    for name in SPLITS:
        table = _table([row for row in rows if row.split == name], pixels, labels, config)
        counts.splits[name] = {"rows": table.num_rows, "labels": dict(Counter(labels[one] for one in table["label"].to_pylist()))}
        write_parquet(table, directory / f"{name}.parquet")
    channels, height, width = shape
    description = {
        "format": FORMAT,
        "task": TASK,
        "labels": labels,
        "channels": channels,
        "height": height,
        "width": width,
        "counts": asdict(counts),
        "columns": {"input": config.input_columns, "all": config.columns, "label": config.label_column},
    }
    (directory / "dataset.json").write_text(json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for warning in warnings:
        context.log(warning)
    kept = {name: entry["rows"] for name, entry in counts.splits.items()}
    metrics = {f"rows/{name}": float(getattr(counts, name)) for name in ("read", "kept", "duplicates", "leaked", "capped", "conflicting")}
    metrics |= {f"rows/{name}": float(rows) for name, rows in kept.items()}
    summary = {"task": TASK, "rows": kept, "labels": labels[:20], "shape": list(shape), "warnings": warnings}
    return Outcome({"dataset": Output("dataset", directory)}, metrics, summary)


def read_images(config: PrepareImagesConfig, directory: Path, context: StepContext) -> tuple[list[RawRow], Pixels, tuple[int, int, int]]:
    """Rows whose image is its hash, the pixels by hash, and (channels, height, width) of all."""
    rows: list[RawRow] = []
    pixels: Pixels = {}
    shapes: dict[tuple[int, int, int], str] = {}
    for row, found in _decoded(config, directory):
        shapes.setdefault(found.shape, row.origin)
        if len(shapes) > 1:
            one, other = shapes.items()
            raise DataError(
                f"{other[1]} is {list(other[0])} (channels, height, width), {one[1]} is {list(one[0])}. Give images of one kind, or set "
                "image_size to scale them to one size."
            )
        pixels[row.values[0]] = found.tobytes()
        rows.append(row)
        if len(rows) % BATCH == 0:
            context.report(len(rows), len(rows), {})
    if not rows:
        raise DataError("The data set holds no images. Give Parquet files with at least one row.")
    return rows, pixels, next(iter(shapes))


def _decoded(config: PrepareImagesConfig, directory: Path) -> Iterator[tuple[RawRow, NDArray[np.uint8]]]:
    files = sorted(directory.rglob("*.parquet"))
    if not files:
        there = ", ".join(sorted(path.name for path in directory.rglob("*") if path.is_file())[:5]) or "nothing"
        raise DataError(f"The data set holds no .parquet file; it holds {there}. Images are read from Parquet, as Hugging Face writes it.")
    wanted = [*config.columns, *([config.split_column] if config.split_by == "column" else [])]
    for path in files:
        name = path.relative_to(directory).as_posix()
        table = pq.read_table(path)
        if missing := [column for column in wanted if column not in table.column_names]:
            raise DataError(f"{name} has no column {missing[0]!r}. Its columns: {', '.join(sorted(table.column_names))}. Name one of them.")
        for number, values in enumerate(zip(*(table[column].to_pylist() for column in wanted), strict=True), start=1):
            origin = f"{name}:{number}"
            split = split_of_file(name) if config.split_by == "file" else None
            if config.split_by == "column":
                split = split_of(as_text(values[2], config.split_column, origin), config.split_column, origin)
            found = decode(values[0], config.image_size, origin)
            digest = hashlib.sha256(repr(found.shape).encode() + found.tobytes()).hexdigest()
            yield RawRow((digest, as_text(values[1], config.label_column, origin)), split, origin), found


def decode(value: Any, size: int, origin: str) -> NDArray[np.uint8]:
    """[channels, height, width], one channel for a grey image and three for any other; ``size`` 0 leaves it as large as it is."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise DataError(f'{origin}: an image is bytes, or {{"bytes": …}} as Hugging Face writes it; this is a {type(content).__name__}.')
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            image = image.convert("L" if image.mode in ("1", "L") else "RGB")
            image = image.resize((size, size), Image.Resampling.BILINEAR) if size else image
            found = np.asarray(image)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{origin}: no PNG or JPEG image ({error}). Convert or remove it.") from None
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


def _table(rows: list[Row], pixels: Pixels, labels: list[str], config: PrepareImagesConfig) -> pa.Table:
    places = {label: place for place, label in enumerate(labels)}
    columns = {
        "sample_id": [row.sample_id for row in rows],
        "pixels": [pixels[row.values[config.image_column]] for row in rows],
        "label": [places[row.values[config.label_column]] for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)
