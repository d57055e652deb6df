"""What a file says wrongly is named by file and line or byte; every form of a row gives the same text."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.errors import DataError
from lfm_tasks.rows.reading import RawRow, read_rows

COLUMNS = ["text", "label"]


def values(rows: list[RawRow]):
    return [row.values for row in rows]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_forms_agree(tmp_path, form):
    rows = [{"text": "naïve, “quoted”\nsecond line", "label": "a"}, {"text": "001", "label": "NA"}]
    if form == "jsonl":
        write_jsonl(tmp_path / "rows.jsonl", rows)
    elif form == "csv":
        (tmp_path / "rows.csv").write_text('label,extra,text\na,1,"naïve, “quoted”\nsecond line"\nNA,2,001\n')
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert values(read_rows(tmp_path, COLUMNS)) == [("naïve, “quoted”\nsecond line", "a"), ("001", "NA")]


def test_numbers_booleans_and_nulls(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": 1.5, "label": True}, {"text": None, "label": 3}, {"label": "x"}])
    assert values(read_rows(tmp_path, COLUMNS)) == [("1.5", "true"), (None, "3"), (None, "x")]


def test_files_are_read_in_order_of_their_names_and_rows_know_their_place(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", [{"text": "2", "label": "y"}])
    (tmp_path / "a.csv").write_text("text,label\n1,x\n")
    (tmp_path / "source.json").write_text("{}")
    assert [(row.values, row.origin) for row in read_rows(tmp_path, COLUMNS)] == [(("1", "x"), "a.csv:2"), (("2", "y"), "b.jsonl:1")]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_missing_column_names_those_there_are(tmp_path, form):
    if form == "jsonl":
        write_jsonl(tmp_path / "rows.jsonl", [{"headline": "x", "topic": "y"}])
    elif form == "csv":
        (tmp_path / "rows.csv").write_text("headline,topic\nx,y\n")
    else:
        pq.write_table(pa.table({"headline": ["x"], "topic": ["y"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"has no column 'text', 'label'. Its columns: headline, topic. Name one of them"):
        read_rows(tmp_path, COLUMNS)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_not_utf8_names_the_byte(tmp_path, form):
    data = b'{"text": "caf\xe9"}\n' if form == "jsonl" else b"text,label\ncaf\xe9,x\n"
    (tmp_path / f"rows.{form}").write_bytes(data)
    with pytest.raises(DataError, match=rf"rows.{form} is not UTF-8: byte 0xe9 at offset {data.index(0xE9)}. Convert it"):
        read_rows(tmp_path, COLUMNS)


def test_not_utf8_offset_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("lfm_tasks.rows.reading._BLOCK", 4)
    for prefix in range(9):
        data = b"a" * prefix + "é€".encode() + b"\xe2\x82"
        (tmp_path / "rows.jsonl").write_bytes(data)
        with pytest.raises(DataError, match=rf"byte 0xe2 at offset {len(data) - 2}\."):
            read_rows(tmp_path, COLUMNS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x",}', r"rows.jsonl, line 3: not valid JSON"),
        ("[1, 2]", r"rows.jsonl, line 3: a list, not an object. Write each row as {\"column\": value, …}"),
        ('{"text": ["x"], "label": "y"}', r"rows.jsonl:3: column 'text' holds a list"),
        ('{"text": "\\ud800", "label": "y"}', r"rows.jsonl:3: column 'text' holds half a surrogate pair at character 0"),
    ],
)
def test_malformed_line_is_named(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "x", "label": "y"}}\n\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path, COLUMNS)


def test_ragged_csv(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,b\nc,d,e\n")
    with pytest.raises(DataError, match="rows.csv is not a valid CSV file.*quote commas"):
        read_rows(tmp_path, COLUMNS)


def test_broken_parquet(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="rows.parquet is not a valid Parquet file"):
        read_rows(tmp_path, COLUMNS)


@pytest.mark.parametrize(("name", "content"), [("rows.jsonl", "\n\n"), ("rows.csv", "text,label\n"), ("rows.jsonl", "")])
def test_empty_data(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"The data set is empty: {name} holds no rows"):
        read_rows(tmp_path, COLUMNS)


def test_empty_csv_file(tmp_path):
    (tmp_path / "rows.csv").write_text("")
    with pytest.raises(DataError, match="rows.csv is empty. A CSV file begins with a line of column names"):
        read_rows(tmp_path, COLUMNS)


def test_no_data_files(tmp_path):
    (tmp_path / "rows.xlsx").write_text("")
    with pytest.raises(DataError, match=r"holds no .jsonl, .csv, .parquet file; it holds rows.xlsx"):
        read_rows(tmp_path, COLUMNS)


def test_split_by_column_and_by_file(tmp_path):
    write_jsonl(tmp_path / "my-train.jsonl", [{"text": "a", "label": "x", "fold": "Dev"}])
    write_jsonl(tmp_path / "test_01.jsonl", [{"text": "b", "label": "x", "fold": "train"}])
    assert [row.split for row in read_rows(tmp_path, COLUMNS, "column", "fold")] == ["validation", "train"]
    assert [row.split for row in read_rows(tmp_path, COLUMNS, "file")] == ["train", "test"]
    assert [row.split for row in read_rows(tmp_path, COLUMNS)] == [None, None]


def test_unknown_split(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": "x", "split": "holdout"}])
    with pytest.raises(DataError, match="rows.jsonl:1: column 'split' names the split 'holdout'. Allowed: train,"):
        read_rows(tmp_path, COLUMNS, "column")
    with pytest.raises(DataError, match="The file name rows.jsonl says no split"):
        read_rows(tmp_path, COLUMNS, "file")


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
def test_jsonl_keeps_any_text(tmp_path_factory, texts):
    directory = tmp_path_factory.mktemp("any")
    write_jsonl(directory / "rows.jsonl", [{"text": text} for text in texts])
    assert values(read_rows(directory, ["text"])) == [(text,) for text in texts]
