"""Answers ranked in pairs: laws of the matrix, of the two ways to aggregate, and of the rankers; similarities against sacrebleu."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
from sacrebleu.metrics import CHRF

from lfm_tasks.evaluation.ensemble.rankers import MemberLikelihood, MinimumBayesRisk
from lfm_tasks.evaluation.ensemble.ranking import best, bubble, choose, rank
from lfm_tasks.evaluation.ensemble.similarity import exact, token_f1
from lfm_tasks.metrics.chrf import chrf

WORDS = ["sport", "sports", "sport today", "the cup final", "a cup final, today", "", "Ümlaut", "s", "cup"]


class Table:
    """A ranker that reads its verdicts from a matrix, and counts them."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix, self.asked = matrix, 0

    def compare(self, prompt, candidates, pairs):
        self.asked += len(pairs)
        return [self.matrix[int(candidates[i]), int(candidates[j])] for i, j in pairs]


def names(count: int) -> list[str]:
    return [str(place) for place in range(count)]


def test_the_matrix_is_antisymmetric_though_the_ranker_favours_whom_it_reads_first():
    ranker = Table(np.random.default_rng(0).normal(size=(5, 5)) + 1)
    matrix = rank(ranker, "", names(5))
    assert np.array_equal(matrix, -matrix.T)
    assert ranker.asked == 5 * 4
    assert rank(ranker, "", ["0"]).tolist() == [[0]]


@pytest.mark.parametrize("aggregate", ["wins", "sum"])
@pytest.mark.parametrize("comparisons", ["all", "bubble"])
def test_the_order_of_the_candidates_does_not_matter_on_transitive_comparisons(comparisons, aggregate):
    merit = np.array([0.3, 2.0, -1.0, 0.5])
    ranker = Table(merit[:, None] - merit)
    for order in permutations(names(4)):
        assert order[choose(ranker, "", order, comparisons, aggregate)] == "1"


def test_bubble_asks_each_neighbour_both_ways_and_no_more():
    ranker = Table(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    assert bubble(ranker, "", names(6)) == 5
    assert ranker.asked == 2 * (6 - 1)


def test_wins_and_sums_are_two_things():
    """Candidate 0 beats both others narrowly; candidate 1 is far ahead of 2."""
    matrix = np.array([[0, 0.1, 0.1], [-0.1, 0, 9], [-0.1, -9, 0]])
    assert (best(matrix, "wins"), best(matrix, "sum")) == (0, 1)
    cycle = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    assert (best(cycle, "wins"), best(cycle, "sum")) == (0, 0)


def test_likeness_by_equality_is_a_vote():
    """All answers of four models from three: the first of the commonest answers is chosen."""
    for answers in product("abc", repeat=4):
        counted = Counter(answers)
        expected = next(one for one in answers if counted[one] == max(counted.values()))
        for comparisons, aggregate in product(("all", "bubble"), ("wins", "sum")):
            assert answers[choose(MinimumBayesRisk("exact"), "", answers, comparisons, aggregate)] == expected


@pytest.mark.parametrize("similarity", ["chrf", "token_f1"])
def test_the_least_risk_by_its_definition(similarity):
    like = {"chrf": chrf, "token_f1": token_f1}[similarity]
    candidates = ["the cup final was today", "the cup final is today", "markets fell", "the final was today"]
    utility = [sum(like(one, other) for other in candidates) for one in candidates]
    matrix = rank(MinimumBayesRisk(similarity), "", candidates)
    np.testing.assert_allclose(matrix, np.subtract.outer(utility, utility) / 4, atol=1e-12)
    assert best(matrix, "sum") == best(matrix, "wins") == int(np.argmax(utility))


def test_likelihood_under_all_is_the_mean_over_them():
    ranker = MemberLikelihood({("q", "a"): [-1.0, -5.0], ("q", "b"): [-2.0, -2.0], ("q", "c"): [-9.0, -0.1]})
    np.testing.assert_allclose(rank(ranker, "q", ["a", "b", "c"]), [[0, -1, 1.55], [1, 0, 2.55], [-1.55, -2.55, 0]])


@pytest.mark.parametrize("hypothesis", WORDS)
def test_chrf_is_that_of_sacrebleu(hypothesis):
    for reference in WORDS:
        if hypothesis or reference:
            assert chrf(hypothesis, reference) == pytest.approx(CHRF().sentence_score(hypothesis, [reference]).score / 100, abs=1e-9)
    assert chrf(hypothesis, hypothesis) == pytest.approx(1)


def test_words_and_equality():
    assert token_f1("the cup final", "The final.") == pytest.approx(2 * 2 / (3 + 2))
    assert token_f1("a a b", "a b b") == pytest.approx(2 * 2 / 6)
    assert (token_f1("", ""), token_f1("", "a")) == (1, 0)
    assert (exact(" Sport.", "sport"), exact("sport", "sports")) == (1, 0)
