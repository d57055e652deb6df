"""Entropy of n-grams and the cosine of texts, worked out by hand; draws from the highest logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lfm_tasks.evaluation.edits.fluency import TOP_K, TopKSampling, consistency, fluency_entropy, ngram_entropy, words_of


def test_entropy_by_hand():
    """a b a b: bigrams ab, ba, ab; trigrams aba, bab."""
    pairs = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert ngram_entropy(["a", "b", "a", "b"], 2) == pytest.approx(pairs)
    assert ngram_entropy(["a", "b", "a", "b"], 3) == pytest.approx(1)
    assert fluency_entropy("a b a b") == pytest.approx((2 / 3 * pairs + 4 / 3 * 1) / 2)
    assert fluency_entropy("a a a a a a") == 0
    eight = "the cup final went to extra time again"
    assert fluency_entropy(eight) == pytest.approx((2 / 3 * math.log2(7) + 4 / 3 * math.log2(6)) / 2)
    assert fluency_entropy("") == fluency_entropy("one") == 0
    assert words_of("It's 3, no?") == ["It", "'", "s", "3", ",", "no", "?"]


def test_cosine_of_texts():
    corpus = ["red car", "red sea"]
    assert consistency(["red car"], ["red car"], corpus) == pytest.approx(1)
    assert consistency(["Red, CAR!"], ["car"] + ["red"], corpus) == pytest.approx(1)
    assert consistency(["blue"], ["red"], corpus) == 0
    assert consistency([""], ["red"], corpus) == 0
    common, rare = 1, math.log(3 / 2) + 1
    expected = common**2 / (common**2 + rare**2)
    assert consistency(["red car"], ["red sea"], corpus) == pytest.approx(expected)


def test_draws_have_the_shares_of_the_softmax_of_the_highest():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0, -9.0])
    sampling = TopKSampling(["one prompt"], seed=3)
    drawn = [int(sampling(torch.zeros(1, 1), logits[None]).argmax()) for _ in range(4000)]
    shares = np.bincount(drawn, minlength=6) / len(drawn)
    expected = logits[:TOP_K].softmax(0).numpy()
    np.testing.assert_allclose(shares[:TOP_K], expected, atol=4 * np.sqrt(0.25 / 4000))
    assert shares[5] == 0


def test_a_row_is_drawn_alike_whatever_is_beside_it():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = TopKSampling(["a", "b", "c"], 0), TopKSampling(["b"], 0)
    for _ in range(5):
        row = together(torch.zeros(3, 1), logits)[1]
        torch.testing.assert_close(row, alone(torch.zeros(1, 1), logits[1:2])[0])
