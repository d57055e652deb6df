"""Rules that combine members: closed forms, enumeration, and what is fitted against scikit-learn."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from lfm_tasks.evaluation.ensemble.combining import (
    logit_mean,
    max_logit,
    mixture,
    most_confident,
    probability_mean,
    vote_shares,
    vote_winners,
)
from lfm_tasks.evaluation.ensemble.fitting import fit_stacking, fit_temperature, negative_log_likelihood, stack

TWO = np.log(np.array([[[0.9, 0.1]], [[0.4, 0.6]]]))
EQUAL = [0.5, 0.5]
RANDOM = np.random.default_rng(0)


def test_closed_forms():
    np.testing.assert_allclose(np.exp(probability_mean(TWO, EQUAL)), [[0.65, 0.35]])
    np.testing.assert_allclose(np.exp(probability_mean(TWO, [0.2, 0.8])), [[0.5, 0.5]])
    np.testing.assert_allclose(np.exp(logit_mean(TWO, EQUAL)), [[0.6 / (0.6 + np.sqrt(0.06)), np.sqrt(0.06) / (0.6 + np.sqrt(0.06))]])
    np.testing.assert_allclose(np.exp(max_logit(TWO)), [[0.6, 0.4]])
    np.testing.assert_allclose(np.exp(most_confident(TWO)), [[0.9, 0.1]])
    np.testing.assert_allclose(np.exp(mixture(np.log([[0.5], [0.1]]), [0.25, 0.75])), [0.2])


def test_the_mean_of_logits_is_the_geometric_mean_and_knows_nothing_of_their_offset():
    scores, shares = RANDOM.normal(size=(3, 20, 5)), [0.5, 0.3, 0.2]
    product_of_powers = np.prod(softmax(scores, axis=-1) ** np.reshape(shares, (3, 1, 1)), axis=0)
    np.testing.assert_allclose(np.exp(logit_mean(scores, shares)), product_of_powers / product_of_powers.sum(axis=-1, keepdims=True))
    moved = scores + RANDOM.normal(size=(3, 20, 1)) * 50
    np.testing.assert_allclose(logit_mean(moved, shares), logit_mean(scores, shares), atol=1e-10)


def test_the_elementwise_maximum_is_not_the_most_confident_model():
    """FusionBench calls the former MaxModelPredictor; an offset of a member's logits changes it, and not her confidence."""
    scores = np.array([[[3.0, 0.0, 0.0]], [[10.0, 10.5, 10.0]]])
    assert (max_logit(scores).argmax(), most_confident(scores).argmax()) == (1, 0)


def test_equally_sure_members_answer_with_their_mean():
    scores = np.log(np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.7, 0.2]], [[0.3, 0.4, 0.3]]]))
    np.testing.assert_allclose(np.exp(most_confident(scores)), [[0.4, 0.45, 0.15]])


def test_votes_by_enumeration():
    """All votes of three members on three classes: a majority wins, a three-way tie is for the mean of probabilities."""
    for votes in product(range(3), repeat=3):
        scores = np.log(np.stack([np.where(np.arange(3) == vote, 0.5 + 0.1 * m, 0.2) for m, vote in enumerate(votes)]))[:, None]
        counted = np.bincount(votes, minlength=3)
        np.testing.assert_allclose(vote_shares(scores, [1 / 3] * 3)[0], counted / 3)
        expected = votes[2] if counted.max() == 1 else counted.argmax()
        assert vote_winners(scores, [1 / 3] * 3)[0] == expected


def test_heavier_votes_win_and_equal_weights_tie_in_any_order():
    scores = np.log(np.array([[[0.6, 0.4]], [[0.2, 0.8]], [[0.4, 0.6]]]))
    assert vote_winners(scores, [0.6, 0.2, 0.2])[0] == 0
    scores = np.log(np.array([[[0.6, 0.4]], [[0.51, 0.49]], [[0.4, 0.6]], [[0.2, 0.8]], [[0.55, 0.45]], [[0.45, 0.55]]]))
    for order in permutations(range(6), 6):
        assert vote_winners(scores[list(order)], [1 / 6] * 6)[0] == 1


def sampled(n: int, classes: int, scale: float, members: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores of members that know the truth more or less, and targets drawn from the truth."""
    generator = np.random.default_rng(n)
    truth = generator.normal(size=(n, classes)) * 2
    target = np.array([generator.choice(classes, p=p) for p in softmax(truth, axis=-1)])
    return scale * (truth + 0.5 * generator.normal(size=(members, n, classes)) * (members > 1)), target


def test_a_temperature_undoes_a_scale():
    scores, target = sampled(4000, 4, 1.0)
    once = fit_temperature(scores[0], target)
    assert once == pytest.approx(1, abs=0.05)
    assert fit_temperature(7 * scores[0], target) == pytest.approx(7 * once, rel=1e-5)
    near = [negative_log_likelihood(scores[0] / (once * by), target) for by in (0.999, 1, 1.001)]
    assert near[1] == min(near)


def test_a_member_that_is_always_right_keeps_a_finite_temperature():
    assert 0.01 <= fit_temperature(np.eye(3)[np.arange(9) % 3], np.arange(9) % 3) < 0.05


def test_stacking_is_the_logistic_regression_of_scikit_learn():
    """With the penalty's centre moved to zero, by features that the mean of logits takes nothing from: both optimise the same."""
    scores, target = sampled(300, 3, 1.0, members=2)
    members = log_softmax(scores, axis=-1)
    weights, biases = fit_stacking(members, target, penalty=1e-6)
    theirs = LogisticRegression(C=1e6, tol=1e-10, max_iter=5000).fit(np.moveaxis(members, 0, 1).reshape(300, -1), target)
    expected = theirs.predict_proba(np.moveaxis(members, 0, 1).reshape(300, -1))
    np.testing.assert_allclose(np.exp(stack(members, weights, biases)), expected, atol=2e-3)


def test_stacking_is_at_the_minimum_of_its_loss():
    scores, target = sampled(60, 3, 1.0, members=2)
    members = log_softmax(scores, axis=-1)
    weights, biases = fit_stacking(members, target, penalty=2.0)

    def loss(w: np.ndarray, b: np.ndarray) -> float:
        away = np.sum((w - np.eye(3) / 2) ** 2) + np.sum(b**2)
        return negative_log_likelihood(stack(members, w, b), target) + 2.0 / (2 * 60) * away

    for _ in range(20):
        step, shift = RANDOM.normal(size=weights.shape) * 1e-3, RANDOM.normal(size=biases.shape) * 1e-3
        assert loss(weights + step, biases + shift) > loss(weights, biases)
    again = fit_stacking(members, target, penalty=2.0)
    assert np.array_equal(weights, again[0]) and np.array_equal(biases, again[1])


def test_a_large_penalty_is_the_mean_of_logits_also_for_a_class_that_was_not_seen():
    scores, target = sampled(50, 4, 1.0, members=3)
    members, two = log_softmax(scores, axis=-1), target % 2
    held = stack(members, *fit_stacking(members, two, penalty=1e9))
    np.testing.assert_allclose(held, logit_mean(scores, [1 / 3] * 3), atol=1e-5)


def test_stacking_learns_whom_to_trust():
    scores, target = sampled(800, 3, 1.0, members=2)
    scores[1] = RANDOM.normal(size=scores[1].shape) * 3
    fitted = fit_stacking(log_softmax(scores[:, :400], axis=-1), target[:400], penalty=1.0)
    found = stack(log_softmax(scores[:, 400:], axis=-1), *fitted)
    mean = logit_mean(scores[:, 400:], EQUAL)
    assert negative_log_likelihood(found, target[400:]) < negative_log_likelihood(mean, target[400:]) - 0.1
