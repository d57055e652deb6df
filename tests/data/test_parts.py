"""Rows of several parts of the loss: both tasks of a prompt stay together, and every part has its share."""

from __future__ import annotations

import numpy as np
import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.training.split import read_split

TASKS = {
    "part_column": "part",
    "parts": {"predict": 0.3, "explain": 0.7},
    "prompt_template": "{part}: {prompt}",
    "completion_template": " {completion}",
    "label_choices": False,
    "test_fraction": 0.0,
    "validation_fraction": 0.3,
}
ROWS = [
    {"prompt": f"article number {n}", "completion": text, "part": part}
    for n in range(30)
    for part, text in (("predict", "sport"), ("explain", f"because {n} goals were scored in the cup final"))
]


def test_both_tasks_of_a_prompt_lie_in_one_split_and_are_no_conflict(prepare):
    made = prepare(ROWS, **TASKS)
    split_of = {}
    for row in made.all_rows:
        task, _, prompt = row["prompt"].partition(": ")
        assert task == sorted(TASKS["parts"])[row["part"]] and split_of.setdefault(prompt, row["split"]) == row["split"]
    assert set(split_of.values()) == {"train", "validation"} and made.counts["conflicting"] == 0
    assert made.description["parts"] == TASKS["parts"]


def test_parts_with_prompts_of_their_own_are_held_together_by_their_question(prepare):
    """As write_rationales makes them: the prompt alone decides how a student is used, so no part is written in it."""
    explain = "Explain. {}"
    rows = [row | {"question": row["prompt"]} for row in ROWS]
    rows = [row | {"prompt": explain.format(row["prompt"])} if row["part"] == "explain" else row for row in rows]
    options = TASKS | {"prompt_template": "{prompt}"}
    made = prepare(rows, **options, group_column="question")
    splits = {row["prompt"]: row["split"] for row in made.all_rows}
    assert len(splits) == len(rows) and {*splits.values()} == {"train", "validation"} and made.counts["conflicting"] == 0
    assert all(splits[row["prompt"]] == splits[explain.format(row["prompt"])] for row in ROWS)
    alone = {row["prompt"]: row["split"] for row in prepare(rows, **options).all_rows}
    assert any(alone[row["prompt"]] != alone[explain.format(row["prompt"])] for row in ROWS)


def test_tune_reads_the_part_of_each_row_and_the_share_of_each_part(prepare):
    made = prepare(ROWS, **TASKS)
    split = read_split(made.directory, "train", "completion")
    assert split.shares.tolist() == [0.7, 0.3] and split.parts.tolist() == [row["part"] for row in made.rows("train")]
    half = split.take(np.arange(0, len(split), 2))
    assert half.parts.tolist() == split.parts[::2].tolist() and half.shares is split.shares
    with pytest.raises(DataError, match="shares of the loss over completions; the objective is 'tokens'"):
        read_split(made.directory, "train", "tokens")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"predict": 1.0}, "names the part 'explain', which has no share"),
        ({"predict": 0.2, "explain": 0.3, "x": 0.5}, "is of the part 'x'"),
    ],
)
def test_a_part_without_a_share_or_without_rows_is_refused(prepare, parts, message):
    with pytest.raises(DataError, match=message):
        prepare(ROWS, **TASKS | {"parts": parts})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": {}}, "belong together"),
        ({"parts": {"predict": 0.5, "explain": 0.6}}, "positive and 1 together"),
        ({"parts": {"predict": 0.0, "explain": 1.0}}, "positive and 1 together"),
        ({"task": "text"}, "parts are for task instruction, not text"),
    ],
)
def test_shares_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(PrepareConfig, TASKS | values)
