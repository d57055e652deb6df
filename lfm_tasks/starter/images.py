"""Starters of images: PNG in the layout of Hugging Face data sets, columns image, label and split."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from pathlib import Path

from lfm_tasks.starter.catalogue import Starter

GARMENTS = ("t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = {"train": "train", "t10k": "test"}


def fashion_mnist(starter: Starter, files: list[Path], target: Path) -> None:
    """Pairs of IDX files: images with a header of 16 bytes, labels with one of 8."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    found = {path.name: gzip.decompress(path.read_bytes()) for path in files}
    rows = []
    for part, split in PARTS.items():
        images = np.frombuffer(found[f"{part}-images-idx3-ubyte.gz"], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(found[f"{part}-labels-idx1-ubyte.gz"], np.uint8, offset=8)
        for pixels, label in zip(images, labels, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png")
            rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": GARMENTS[label], "split": split})
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.string()),
            ("split", pa.string()),
        ]
    )
    target.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, target / "data.parquet", compression="zstd", compression_level=3, store_schema=False)
    counted = Counter(row["label"] for row in rows)
    source = starter.provenance() | {"rows": len(rows), "labels": dict(sorted(counted.items()))}
    (target / "source.json").write_text(json.dumps(source, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
