"""The step prepare_images: what is kept, what is refused, and that the pixels are those of the images."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lfm_tasks.data.images import run
from lfm_tasks.data.images_config import PrepareImagesConfig
from lfm_tasks.errors import DataError
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.step import Input
from tests.images import LABELS, pixels, write_images
from tests.tuned import Context


@pytest.fixture
def prepare(tmp_path):
    def prepare(rows=None, count: int = 60, name: str = "data", **values):
        given = write_images(tmp_path / name, count) if rows is None else write_rows(tmp_path / name, rows)
        number = len(list(tmp_path.glob("work*")))
        return run(PrepareImagesConfig(**values), {"data": given}, Context(tmp_path / f"work{number}"))

    return prepare


def write_rows(directory, rows) -> Input:
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), directory / "data.parquet")
    return Input(directory.name, "dataset", "d" * 64, directory)


def encoded(found: np.ndarray, form: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(found).save(buffer, form)
    return buffer.getvalue()


def test_pixels_and_labels_are_those_of_the_images(prepare):
    found, classes = pixels(60, seed=9)
    by_pixels = {image.numpy().tobytes(): LABELS[one] for image, one in zip(found, classes, strict=True)}
    outcome = prepare()
    seen = 0
    for split, count in (("train", 36), ("validation", 4), ("test", 20)):
        rows = read_rows(outcome.outputs["dataset"].path, split)
        assert abs(len(rows) - count) <= 4 and rows.task == "images" and rows.input_ids == [] and len(rows.take([0])) == 1
        seen += len(rows)
        assert all(rows.labels[label] == by_pixels[one] for one, label in zip(rows.columns["pixels"], rows.columns["label"], strict=True))
    assert seen == 60 and len(set(read_rows(outcome.outputs["dataset"].path, "test").prompt_sha256())) == 20
    assert [outcome.summary["labels"], outcome.summary["shape"]] == [LABELS, [1, 8, 8]]


def test_equal_images_are_kept_once_and_never_lie_in_two_splits(prepare):
    found, classes = pixels(40)
    rows = [{"image": encoded(one[0].numpy()), "label": int(c)} for one, c in zip(found, classes, strict=True)]
    rows = [row | {"split": "test" if place >= 30 else "train"} for place, row in enumerate(rows)]
    doubled = [*rows, *rows[:5], *[row | {"split": "train"} for row in rows[30:33]]]
    outcome = prepare(doubled)
    assert (outcome.metrics["rows/duplicates"], outcome.metrics["rows/leaked"], outcome.metrics["rows/kept"]) == (5, 3, 40)
    assert outcome.summary["labels"] == ["0", "1", "2"]
    with pytest.raises(DataError, match="3 rows lie in two splits"):
        prepare(doubled, name="again", leakage="refuse")


def test_same_images_same_bytes(prepare):
    first, second = (prepare(name=name).outputs["dataset"].path for name in ("one", "two"))
    assert [path.read_bytes() for path in sorted(first.iterdir())] == [path.read_bytes() for path in sorted(second.iterdir())]


def test_images_are_scaled_where_a_size_is_asked_for(prepare):
    rows = [{"image": encoded(np.full((4 + i, 5, 3), 10 * i, np.uint8), "png"), "label": i % 2} for i in range(20)]
    with pytest.raises(DataError, match=r"data.parquet:2 is \[3, 5, 5\] .*, data.parquet:1 is \[3, 4, 5\]. Give images of one kind"):
        prepare(rows, split_by="hash")
    outcome = prepare(rows, name="scaled", split_by="hash", image_size=6, validation_fraction=0.2)
    description = json.loads((outcome.outputs["dataset"].path / "dataset.json").read_text())
    assert [description[name] for name in ("channels", "height", "width")] == [3, 6, 6]
    assert all(len(one) == 108 for one in read_rows(outcome.outputs["dataset"].path, "train").columns["pixels"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": b"GIF89a", "label": "a"}, "data.parquet:1: no PNG or JPEG image"),
        ({"image": "text", "label": "a"}, "data.parquet:1: an image is bytes, .*this is a str"),
        ({"picture": b"", "label": "a"}, "data.parquet has no column 'image'. Its columns: label, picture"),
    ],
    ids=["gif", "text", "column"],
)
def test_what_is_no_image_is_named(prepare, row, message):
    with pytest.raises(DataError, match=message):
        prepare([row], split_by="hash")


def test_other_files_are_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat.png").write_bytes(b"")
    with pytest.raises(DataError, match="holds no .parquet file; it holds cat.png"):
        run(PrepareImagesConfig(), {"data": Input("data", "dataset", "d" * 64, tmp_path / "data")}, Context(tmp_path / "work"))
