"""Rows of several parts: the loss of a step over all rows is the sum of the parts' own means, each by its share."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lfm_tasks.config import parse_config
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.data.parts import part_weights
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.models.attention import segmented
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.training.batches import count_targets, packed_batch, padded_batch
from lfm_tasks.training.objectives import loss_sum, row_of
from lfm_tasks.training.split import read_split
from tests.tuned import llama_input

ALPHA = 0.3
TASKS = {
    "part_column": "part",
    "parts": {"predict": ALPHA, "explain": 1 - ALPHA},
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


def test_weights_are_those_of_the_formula():
    weights = part_weights(["a", "b", "a"], np.array([1, 6, 3]), {"a": 0.25, "b": 0.75})
    assert weights == pytest.approx([0.25 * 10 / 4, 0.75 * 10 / 6, 0.25 * 10 / 4])
    assert part_weights(["b"], np.array([7]), {"a": 0.25, "b": 0.75}) == pytest.approx([1.0])


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_alpha_a_plus_one_minus_alpha_b(prepare, tmp_path, packed):
    made = prepare(ROWS, **TASKS)
    model = open_causal_lm(llama_input(tmp_path / "model"))
    split = read_split(made.directory, "train", "completion")
    parts = ["predict" if row["prompt"].startswith("predict: ") else "explain" for row in made.rows("train")]

    def loss(examples, weighted):
        data = split if weighted else type(split)(split.sample_ids, split.tokens, split.first, split.labels)
        batch = packed_batch(data, examples) if packed else padded_batch(data, examples, 0, labels=False)
        with torch.inference_mode(), segmented(model) if packed else nullcontext(), row_of(batch):
            return loss_sum(model, batch).item()

    everything = list(range(len(split)))
    a, b = (
        loss(places, False) / count_targets(split, places, labels=False)
        for places in ([i for i in everything if parts[i] == part] for part in ("predict", "explain"))
    )
    assert loss(everything, True) / count_targets(split, everything, labels=False) == pytest.approx(ALPHA * a + (1 - ALPHA) * b, rel=1e-6)
    assert abs(a - b) > 1e-3


def test_both_tasks_of_a_prompt_lie_in_one_split_and_are_no_conflict(prepare):
    made = prepare(ROWS, **TASKS)
    split_of = {}
    for row in made.all_rows:
        task, _, prompt = row["prompt"].partition(": ")
        assert task in TASKS["parts"] and split_of.setdefault(prompt, row["split"]) == row["split"]
    assert set(split_of.values()) == {"train", "validation"} and made.counts["conflicting"] == 0
    assert made.description["parts"] == TASKS["parts"]


def test_the_objective_over_every_token_is_refused(prepare):
    with pytest.raises(DataError, match="shares of the loss over completions; the objective is 'tokens'"):
        read_split(prepare(ROWS, **TASKS).directory, "train", "tokens")


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
