"""A loss of several parts: at every step, however it is cut, the sum of the parts' own means, each by its share."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.models.attention import segmented
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.training.batches import count_targets, packed_batch, padded_batch
from lfm_tasks.training.objectives import loss_sum, row_of
from lfm_tasks.training.parts import part_weights, weighed
from lfm_tasks.training.split import Split
from lfm_tasks.tuning import tune
from lfm_tasks.tuning.config import TuneConfig
from tests.tuned import Context, llama_input, write_dataset

ALPHA = 0.3
SHARES = np.array([1 - ALPHA, ALPHA])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_causal_lm(llama_input(tmp_path_factory.mktemp("parts") / "model"))


@pytest.fixture
def split() -> Split:
    random = np.random.default_rng(0)
    tokens = [random.integers(3, 200, length) for length in (9, 5, 14, 7, 6, 11)]
    first, parts = np.array([2, 3, 2, 4, 5, 1]), np.array([0, 1, 0, 1, 1, 0])
    return Split([f"{i:064x}" for i in range(6)], tokens, first, np.full(6, -1), parts, SHARES)


def test_weights_are_those_of_the_formula():
    found = part_weights(np.array([0, 1, 0]), np.array([1, 6, 3]), np.array([0.25, 0.75]))
    assert found == pytest.approx([0.25 * 10 / 4, 0.75 * 10 / 6, 0.25 * 10 / 4])
    assert part_weights(np.array([1]), np.array([7]), np.array([0.25, 0.75])) == pytest.approx([1.0])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50), st.floats(0, 10)), min_size=1, max_size=20))
def test_the_weighted_mean_is_the_sum_of_means(rows):
    shares = np.array([0.2, 0.3, 0.5])
    parts, targets, losses = (np.array(one) for one in zip(*rows, strict=True))
    ours = (part_weights(parts, targets, shares) * targets * losses).sum() / targets.sum()
    means = {p: (targets * losses)[parts == p].sum() / targets[parts == p].sum() for p in set(parts.tolist())}
    assert ours == pytest.approx(sum(shares[p] * mean for p, mean in means.items()) / sum(shares[p] for p in means))


def mean_loss(model, split: Split, cut: list[list[int]], packed: bool) -> float:
    total, examples = 0.0, [index for group in cut for index in group]
    for group in cut:
        batch = packed_batch(split, group) if packed else padded_batch(split, group, 0, labels=False)
        with torch.inference_mode(), segmented(model) if packed else nullcontext(), row_of(batch):
            total += loss_sum(model, batch).item()
    return total / count_targets(split, examples, labels=False)


@pytest.mark.parametrize("cut", [[[0, 1, 2, 3, 5]], [[2, 0], [1, 3, 5]], [[0], [1], [2], [3], [5]]], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_of_a_step_is_alpha_a_plus_one_minus_alpha_b(model, split, cut, packed):
    plain = replace(split, parts=None)
    a, b = (mean_loss(model, plain, [places], packed) for places in ([1, 3], [0, 2, 5]))
    assert abs(a - b) > 1e-3
    assert mean_loss(model, weighed(split, [0, 1, 2, 3, 5]), cut, packed) == pytest.approx(ALPHA * a + (1 - ALPHA) * b, rel=1e-5)
    assert weighed(plain, [0, 1]) is plain


def test_a_run_trains_on_it_and_is_validated_on_it(split, tmp_path):
    base = llama_input(tmp_path / "model")
    data = write_dataset(tmp_path / "data", base.path, "instruction")
    config = TuneConfig(method="full", max_steps=1, batch_size=6, learning_rate=1e-9, packing=False)
    training = tune.prepare(config, open_causal_lm(base), data, "completion", Context(tmp_path / "work"))
    training.train = training.validation = split
    training.plan = replace(training.plan, count=6)
    plain = replace(split, parts=None)
    a, b = (mean_loss(training.base.eval(), plain, [places], False) for places in ([1, 3, 4], [0, 2, 5]))
    training.run()
    assert training.progress.history[0]["loss"] == pytest.approx(ALPHA * a + (1 - ALPHA) * b, rel=1e-5)
    assert training.progress.history[1]["validation_loss"] == pytest.approx(ALPHA * a + (1 - ALPHA) * b, rel=1e-4)
