"""Rows and splits depend on content alone: laws over arbitrary rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.data.splits import (
    capped,
    carve,
    conflicts,
    make_row,
    near_duplicates,
    normalise,
    ordered,
    split_by_hash,
    without_duplicates,
    without_leaks,
)
from lfm_tasks.errors import DataError
from lfm_tasks.rows.reading import RawRow

COLUMNS = ["text", "label"]
words = st.sampled_from(["A", "a", " a", "b", "B ", "c d", "c  D", "", " "])
raw_rows = st.lists(st.builds(lambda text, label: (text, label), words, st.sampled_from(["x", "y"])), max_size=30)


def rows_of(values, fractions=(0.2, 0.3), seed=0, splits=None):
    made = [
        make_row(RawRow(value, splits[i] if splits else None, f"r:{i}"), COLUMNS, ["text"], fractions, seed)
        for i, value in enumerate(values)
    ]
    return ordered([row for row in made if row is not None])


def content(rows):
    return [(row.sample_id, row.split) for row in rows]


@given(raw_rows, st.randoms(use_true_random=False))
def test_order_of_rows_changes_nothing(values, shuffler):
    shuffled = list(values)
    shuffler.shuffle(shuffled)
    assert content(without_duplicates(rows_of(values))) == content(without_duplicates(rows_of(shuffled)))


@given(raw_rows, raw_rows)
def test_a_row_keeps_its_split_whatever_else_is_there(values, others):
    alone = dict(content(rows_of(values)))
    together = dict(content(rows_of(values + others)))
    assert all(together[sample_id] == split for sample_id, split in alone.items())


@given(raw_rows)
def test_equal_texts_never_straddle_splits(values):
    splits = {}
    for row in rows_of(values):
        assert splits.setdefault(normalise(row.values["text"]), row.split) == row.split
    assert without_leaks(rows_of(values), "refuse") == rows_of(values)


@given(raw_rows)
def test_a_group_never_straddles_splits_and_equal_texts_of_two_groups_are_found(values):
    made = [make_row(RawRow(value, None, f"r:{i}"), COLUMNS, ["text"], (0.2, 0.3), 0, "label") for i, value in enumerate(values)]
    rows = ordered([row for row in made if row is not None])
    splits_of = {label: {row.split for row in rows if row.values["label"] == label} for label in "xy"}
    assert all(len(found) <= 1 for found in splits_of.values())
    kept = without_leaks(rows, "drop")
    texts = {label: {row.input_key for row in rows if row.values["label"] == label} for label in "xy"}
    apart = splits_of["x"] != splits_of["y"]
    lost = len(texts["x"] & texts["y"]) if apart else 0
    assert len({(row.group_key, row.input_key) for row in rows}) - len({(row.group_key, row.input_key) for row in kept}) == lost


def test_a_group_that_the_data_put_in_two_splits_is_refused_by_name():
    given = [("one", "x", "train"), ("two", "x", "test"), ("three", "y", "train")]
    rows = [make_row(RawRow(values, split, f"r:{i}"), COLUMNS, ["text"], (0, 0), 0, "label") for i, (*values, split) in enumerate(given)]
    with pytest.raises(DataError, match=r"1 rows lie in two splits: the group of r:0 \(train\) is also r:1 \(test\)"):
        without_leaks(rows, "refuse")
    assert [row.origin for row in without_leaks(rows, "drop")] == ["r:1", "r:2"]


@given(raw_rows)
def test_duplicates_are_those_equal_after_normalisation(values):
    kept = without_duplicates(rows_of(values))
    assert len({row.row_key for row in kept}) == len(kept)
    expected = {(normalise(text), label) for text, label in values if text.strip()}
    assert {(normalise(row.values["text"]), row.values["label"]) for row in kept} == expected


@given(raw_rows)
def test_conflicts_by_enumeration(values):
    outputs = {}
    for text, label in values:
        if text.strip():
            outputs.setdefault(normalise(text), set()).add(label)
    assert conflicts(rows_of(values)) == sum(len(labels) > 1 for labels in outputs.values())


@given(raw_rows, st.integers(1, 8), st.integers(1, 8))
def test_caps_nest(values, small, large):
    rows = without_duplicates(rows_of(values))
    small, large = sorted((small, large))
    kept = {cap: capped(rows, {"train": cap, "validation": cap, "test": None}) for cap in (small, large)}
    assert set(content(kept[small])) <= set(content(kept[large]))
    for split in ("train", "validation"):
        there = sum(row.split == split for row in rows)
        assert sum(row.split == split for row in kept[small]) == min(small, there)


def test_shares_are_those_asked_for():
    counted = dict.fromkeys(("train", "validation", "test"), 0)
    for n in range(4000):
        counted[split_by_hash(str(n), (0.1, 0.2), seed=3)] += 1
    # Five standard deviations of a binomial share.
    assert abs(counted["test"] / 4000 - 0.2) < 5 * (0.2 * 0.8 / 4000) ** 0.5
    assert abs(counted["validation"] / 4000 - 0.1) < 5 * (0.1 * 0.9 / 4000) ** 0.5


def test_seed_salts_the_split():
    keys = [str(n) for n in range(200)]
    first, second = ([split_by_hash(key, (0.25, 0.25), seed) for key in keys] for seed in (0, 1))
    assert first != second
    assert first == [split_by_hash(key, (0.25, 0.25), 0) for key in keys]


def test_leaks_between_given_splits():
    rows = rows_of(
        [("One", "x"), (" one ", "x"), ("two", "x"), ("TWO", "y"), ("three", "x")], splits=["train", "test", "validation", "test", "train"]
    )
    with pytest.raises(DataError, match=r"2 rows lie in two splits.*Remove them, or set leakage to 'drop'"):
        without_leaks(rows, "refuse")
    kept = without_leaks(rows, "drop")
    assert sorted((row.values["text"], row.split) for row in kept) == [(" one ", "test"), ("TWO", "test"), ("three", "train")]


def test_carving_takes_missing_splits_from_train_only():
    values = [(f"text {n}", "x") for n in range(200)]
    rows = rows_of(values, splits=["test" if n < 50 else "train" for n in range(200)])
    carved = carve(rows, (0.3, 0.3), seed=0)
    before, after = dict(content(rows)), dict(content(carved))
    moved = {key for key in before if before[key] != after[key]}
    assert moved and {before[key] for key in moved} == {"train"} and {after[key] for key in moved} == {"validation"}


def test_near_duplicates_share_thirteen_words():
    story = [f"w{n}" for n in range(30)]
    texts = {
        "train": " ".join(story),
        "shares thirteen": "other words first " + " ".join(story[5:18]).upper(),
        "shares twelve": "other words first " + " ".join(story[5:17]) + " and then not",
    }
    rows = rows_of([(text, "x") for text in texts.values()], splits=["train", "test", "test"])
    assert near_duplicates(rows, ["text"]) == 1


def test_normalise():
    assert normalise("  Straße\n\tX ") == normalise("STRASSE x") == "strasse x"


def test_hash_order_is_not_the_order_of_the_file():
    rows = rows_of([(f"t{n:03d}", "x") for n in range(50)])
    texts = [row.values["text"] for row in rows]
    assert texts != sorted(texts)
