"""What the converters write, on files of the packages' own form."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from lfm_tasks.starter.catalogue import find_starter
from lfm_tasks.starter.convert import build, sarcasm, vader_snippets


def read(directory):
    return pq.read_table(directory / "data.parquet").to_pylist(), json.loads((directory / "source.json").read_text())


def test_build_is_deterministic_and_says_where_it_comes_from(toy_news, tmp_path):
    for target in ("a", "b"):
        (tmp_path / f"scratch-{target}").mkdir()
        build(toy_news, tmp_path / "cache", tmp_path / f"scratch-{target}", tmp_path / target)
    rows, source = read(tmp_path / "a")
    assert rows == [
        {"text": "The cup final.", "label": "sports"},
        {"text": "A late goal £15m.", "label": "sports"},
        {"text": "A faster chip.", "label": "tech"},
    ]
    assert source["recoded_from_cp1252"] == 1 and source["labels"] == {"sports": 2, "tech": 1} and source["rows"] == 3
    assert (source["package"], source["version"], source["sha256"], source["licence"]) == ("toy-news", "1.0", toy_news.sha256, "CC0")
    for name in ("data.parquet", "source.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_neutral_snippets_are_left_out_and_counted(tmp_path):
    lines = ["1\t2.5\tGreat clich\u00e9.", "2\t-0.6\tBad.", "3\t0.5\tSo so.", "4\t-0.5\tHm.", "5\t0.51\tFine."]
    file = tmp_path / "tweets_GroundTruth.txt"
    file.write_bytes("\r\n".join(lines).encode())
    vader_snippets(find_starter("tweets"), [file], tmp_path / "out")
    rows, source = read(tmp_path / "out")
    assert [(row["text"], row["label"]) for row in rows] == [("Great cliché.", "positive"), ("Bad.", "negative"), ("Fine.", "positive")]
    assert source["neutral_left_out"] == 2


def test_sarcasm_takes_the_last_message(tmp_path):
    file = tmp_path / "samples.jsonl"
    samples = [{"input": [{"content": "system"}, {"content": text}], "ideal": ideal} for text, ideal in (("A", "1"), ("B", "0"))]
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    sarcasm(find_starter("sarcasm"), [file], tmp_path / "out")
    assert read(tmp_path / "out")[0] == [{"text": "A", "label": "sarcastic"}, {"text": "B", "label": "sincere"}]


def test_bbc_says_that_it_is_not_shipped():
    assert "copyright of the BBC and are not re-shipped" in find_starter("bbc-news").provenance()["note"]
