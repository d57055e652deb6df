"""The step as a whole: what it writes, that its counts add up, and every kind of data that it refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.data.prepare import select_rows
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.rows.ids import content_hash


def test_default_job(prepare, news, tokenizer, toy_tokenizer_directory):
    made = prepare(news)
    description = made.description
    assert description["labels"] == ["business", "sport", "tech"]
    assert description["completions"] == [" business", " sport", " tech"]
    assert description["tokenizer_sha256"] == tokenizer_digest(toy_tokenizer_directory)
    assert (description["task"], description["vocabulary"], description["max_length"]) == ("instruction", len(tokenizer), 96)
    assert {"train.parquet", "validation.parquet", "test.parquet", "dataset.json", "report.md"} == set(made.bytes)
    by_id = {content_hash(row): row for row in news}
    for row in made.all_rows:
        source = by_id.pop(row["sample_id"])
        assert row["prompt"] == f"Article: {source['text']}\nTopic:"
        assert row["completion"] == f" {source['label']}" == description["completions"][row["label"]]
        assert tokenizer.decode(row["input_ids"][row["prompt_tokens"] :]) == f"{row['completion']}<|im_end|>"
    assert not by_id
    assert made.outcome.metrics["rows/kept"] == 60
    assert made.outcome.metrics["tokens/test"] == sum(len(row["input_ids"]) for row in made.rows("test"))
    assert made.outcome.summary["rows"] == {name: len(made.rows(name)) for name in ("train", "validation", "test")}
    assert made.context.reported[-1] == (60, 60)


def test_figures_are_the_report_and_a_picture_outside_the_artifact(prepare, news):
    made = prepare(news)
    report, picture = made.outcome.figures
    assert report == made.directory / "report.md"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.parent != made.directory


def test_equal_input_gives_equal_bytes_in_any_order_of_rows(prepare, news):
    assert prepare(news).bytes == prepare(news).bytes == prepare(list(reversed(news))).bytes


def test_form_of_the_file_changes_nothing(prepare, news, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in news))
    assert prepare(tmp_path).bytes == prepare(news).bytes


def test_classification(prepare, news, tokenizer):
    made = prepare(news, task="classification", max_length=16)
    assert made.counts["truncated"] == len(made.all_rows) == 60
    for row in made.all_rows:
        assert set(row) == {"sample_id", "input_ids", "text", "label", "split"}
        assert row["input_ids"] == tokenizer(row["text"]).input_ids
        assert len(row["input_ids"]) == 16
    assert made.description["completions"] == []


def test_text_for_perplexity_may_be_held_out_whole(prepare, news):
    made = prepare(news, task="text", validation_fraction=0, test_fraction=1, max_eval_samples=None, max_length=8)
    assert made.outcome.summary["rows"]["train"] == 0
    assert made.counts["kept"] == 60 < len(made.rows("test"))
    assert made.description["labels"] == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extra=st.lists(st.tuples(st.sampled_from(["one", "ONE ", "", " ", "two"]), st.sampled_from(["sport", "tech", ""])), max_size=12),
    cap=st.integers(3, 40),
    deduplicate=st.booleans(),
)
def test_counts_add_up(news, tmp_path, extra, cap, deduplicate):
    rows = [*news, *({"text": text, "label": label} for text, label in extra)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, counts = select_rows(PrepareConfig(max_train_samples=cap, max_eval_samples=cap, deduplicate=deduplicate, seed=1), tmp_path)
    assert counts.read == len(rows)
    assert counts.read == counts.kept + counts.duplicates + counts.empty + counts.leaked + counts.capped
    assert counts.kept == len(kept)
    assert counts.empty == sum(not (text.strip() and label.strip()) for text, label in extra)


def test_counts_add_up_with_given_splits_and_leaks(prepare, news):
    rows = [row | {"split": "train" if n % 3 else "test"} for n, row in enumerate(news)]
    rows += [rows[0] | {"split": "train"}, rows[1] | {"text": rows[1]["text"].upper()}]
    with pytest.raises(DataError, match="1 rows lie in two splits"):
        prepare(rows, split_by="column", max_eval_samples=None, task="text")
    made = prepare(rows, split_by="column", leakage="drop", max_eval_samples=None, task="text")
    counts = made.counts
    assert (counts["read"], counts["leaked"], counts["duplicates"], counts["kept"]) == (62, 1, 1, 60)
    texts = {name: {row["text"].casefold() for row in made.rows(name)} for name in ("train", "validation", "test")}
    assert texts["validation"] and not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]


def test_splits_by_file(prepare, news, tmp_path):
    for name, rows in {"train": news[:40], "validation": news[40:50], "test": news[50:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = prepare(tmp_path, split_by="file")
    assert made.outcome.summary["rows"] == {"train": 40, "validation": 10, "test": 10}


def test_one_class(prepare, news):
    with pytest.raises(DataError, match="All rows have the label 'x'; at least two labels are needed. Is 'label' the label column"):
        prepare([row | {"label": "x"} for row in news])
    with pytest.raises(DataError, match="at least two labels"):
        prepare([row | {"label": "x"} for row in news], task="classification")
    assert prepare([row | {"label": "x"} for row in news], label_choices=False).description["labels"] == []


def test_label_that_train_never_has(prepare, news):
    rows = [row | {"split": "train"} for row in news] + [{"text": "odd one", "label": "weather", "split": "test"}]
    with pytest.raises(DataError, match="The label 'weather' is in a held-out split and never in train"):
        prepare(rows, split_by="column")


def test_cap_that_leaves_a_label_out_is_a_warning(prepare, news):
    made = prepare(news, max_train_samples=1)
    assert "max_train_samples left no training row of" in made.outcome.summary["warnings"][0]
    assert made.context.logged == made.outcome.summary["warnings"]
    assert "max\\_train\\_samples left no training row of" in made.bytes["report.md"].decode()


def test_numeric_labels_are_in_numeric_order(prepare, news):
    made = prepare([row | {"label": [10, 9, 1][n % 3]} for n, row in enumerate(news)], task="classification")
    assert made.description["labels"] == ["1", "9", "10"]


def test_all_rows_empty(prepare):
    with pytest.raises(DataError, match="All 2 rows are empty: in each, one of the columns text, label is blank"):
        prepare([{"text": " ", "label": "x"}, {"text": "x", "label": None}])


def test_too_few_rows_for_a_split(prepare):
    with pytest.raises(DataError, match="got none of the 2 rows. Give more rows, another fraction .* or another seed"):
        prepare([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], label_choices=False)


def test_missing_column(prepare, news):
    with pytest.raises(DataError, match="has no column 'body'. Its columns: label, text"):
        prepare(news, prompt_template="{body}")


def test_max_length_beyond_the_model(prepare, news):
    with pytest.raises(ConfigError, match="max_length 4096 is more than the model takes: 512 tokens. Lower it"):
        prepare(news, max_length=4096)


def test_conflicting_labels_are_counted_and_kept_together(prepare, news):
    rows = [*news, *({**row, "label": "tech"} for row in news[:6])]
    made = prepare(rows)
    assert made.counts["conflicting"] == sum(row["label"] != "tech" for row in news[:6])
    splits = {}
    for row in made.all_rows:
        assert splits.setdefault(row["prompt"], row["split"]) == row["split"]


def test_report_runs_nothing_of_the_data(prepare, news):
    hostile = "<script>alert(1)</script> ![x](http://evil/p.png) | `code`\n# heading"
    report = prepare([row | {"text": f"{hostile} {n}"} for n, row in enumerate(news)]).bytes["report.md"].decode()
    assert "<script" not in report and "](http" not in report and "\n# heading" not in report
    tables = [line for line in report.splitlines() if line.startswith("| Article")]
    assert tables and all(line.replace(r"\|", "").count("|") == 4 for line in tables)


def test_parquet_holds_no_time_or_schema_of_the_library(prepare, news):
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(prepare(news).directory / "train.parquet")
    assert metadata.metadata is None


def test_tune_reads_what_prepare_writes(prepare, news):
    from lfm_tasks.training.split import read_split

    made = prepare(news)
    split = read_split(made.directory, "train", "completion")
    assert split.sample_ids == [row["sample_id"] for row in made.rows("train")]
    assert split.first.tolist() == [row["prompt_tokens"] for row in made.rows("train")]
