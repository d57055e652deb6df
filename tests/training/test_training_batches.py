"""Packing and micro-batches cut a step; they never change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from lfm_tasks.errors import DataError
from lfm_tasks.models.attention import segmented
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.training.batches import Plan, chunk_by_length, count_targets, pack, packed_batch, padded_batch
from lfm_tasks.training.objectives import loss_sum, row_of
from lfm_tasks.training.schedules import factor, warmup_steps
from lfm_tasks.training.split import Split, choose_objective, sample, with_targets
from tests.tuned import llama_input


def split(lengths, first=None, size=60) -> Split:
    random = np.random.default_rng(3)
    tokens = [random.integers(5, size, length) for length in lengths]
    first = np.array(first if first is not None else [max(1, length - 2) for length in lengths])
    return Split([f"{index:064x}" for index in range(len(lengths))], tokens, first, np.zeros(len(lengths), dtype=np.int64))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(8, 80))
def test_packing_keeps_every_example_once_and_no_row_overflows(lengths, capacity):
    rows = pack(range(len(lengths)), lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity or len(row) == 1 for row in rows)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(1, 9), st.integers(8, 200))
def test_chunks_are_of_like_length_and_within_both_limits(lengths, size, capacity):
    groups = chunk_by_length(range(len(lengths)), lengths, size, capacity)
    ordered = [lengths[index] for group in groups for index in group]
    assert ordered == sorted(lengths, reverse=True)
    assert all(len(group) == 1 or (len(group) <= size and len(group) * lengths[group[0]] <= capacity) for group in groups)


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own():
    plan = Plan(count=10, batch_size=4, steps=6, seed=1)
    epochs = [[index for step in range(3 * epoch, 3 * epoch + 3) for index in plan.examples(step)] for epoch in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert Plan(10, 4, 6, seed=2).examples(0) != plan.examples(0)


@pytest.mark.parametrize("first", [None, [1] * 4])
def test_packed_padded_and_single_rows_have_equal_loss_at_every_token(tmp_path, first):
    model = open_causal_lm(llama_input(tmp_path / "base"))
    data = split([9, 4, 13, 6], first)
    with torch.inference_mode():
        alone = [loss_sum(model, padded_batch(data, [index], 0, labels=False), reduction="none") for index in (2, 0, 3, 1)]
        padded = loss_sum(model, padded_batch(data, [2, 0, 3, 1], 0, labels=False), reduction="none")
        batch = packed_batch(data, [2, 0, 3, 1])
        with segmented(model), row_of(batch):
            packed = loss_sum(model, batch, reduction="none")
    assert len(packed) == count_targets(data, range(4), labels=False)
    torch.testing.assert_close(padded, torch.cat(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_the_loss_is_that_of_transformers_on_the_completion(tmp_path):
    model = open_causal_lm(llama_input(tmp_path / "base"))
    data = split([9], [6])
    labels = torch.from_numpy(data.tokens[0].copy())[None]
    labels[:, :6] = -100
    expected = model(input_ids=torch.from_numpy(data.tokens[0])[None], labels=labels).loss
    ours = loss_sum(model, padded_batch(data, [0], 0, labels=False)) / count_targets(data, [0], labels=False)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_are_those_of_transformers(name, warmup):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = get_scheduler("constant_with_warmup" if name == "constant" else name, optimizer, warmup, 20)
    for step in range(20):
        assert factor(name, step, warmup, 20) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_the_warm_up_is_given_in_steps_or_as_a_share():
    assert warmup_steps(5, 0.0, 100) == 5
    assert warmup_steps(0, 0.03, 90) == 3


def test_examples_without_a_target_are_set_aside_and_counted():
    kept, left_out = with_targets(split([4, 5, 6], [4, 2, 9]), "completion")
    assert (len(kept), left_out) == (1, 2)
    assert kept.sample_ids == [f"{1:064x}"]


def test_a_sample_is_the_same_rows_whatever_their_order():
    data = split([4, 5, 6, 7])
    turned = data.take(np.array([3, 2, 1, 0]))
    assert sorted(sample(data, 2).sample_ids) == sorted(sample(turned, 2).sample_ids)
    assert len(sample(data, 0)) == 4


def test_an_objective_that_does_not_fit_the_data_is_refused():
    assert choose_objective("auto", "instruction") == "completion"
    with pytest.raises(DataError, match="'labels' does not fit text data. Allowed: auto, tokens"):
        choose_objective("labels", "text")
