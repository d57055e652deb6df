"""Bootstrap, randomisation and binomial statistics against enumeration, scipy, and simulated coverage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from lfm_tasks.metrics.binomial import mcnemar, wilson_interval
from lfm_tasks.metrics.bootstrap import (
    bca_interval,
    bootstrap,
    estimate,
    paired_bootstrap,
    percentile_interval,
    randomisation_p,
    resample_counts,
)
from lfm_tasks.metrics.classification import accuracy
from lfm_tasks.metrics.likelihood import perplexity
from lfm_tasks.metrics.metric import Metric, mean_of
from lfm_tasks.metrics.verdicts import gain_on_scale, loss_on_scale, non_inferiority, superiority


def plain_mean() -> Metric:
    return Metric("unit", True, *mean_of("x"))


def test_resamples_draw_n_samples_each_and_every_sample_equally_often():
    counts = np.concatenate(list(resample_counts(10, 4000, seed=3)))
    assert counts.shape == (4000, 10)
    assert (counts.sum(axis=1) == 10).all()
    assert np.abs(counts.mean(axis=0) - 1).max() < 0.08


def test_bootstrap_converges_to_the_enumeration_of_all_resamples():
    samples = {"nll": np.array([1.0, 8.0, 2.0, 30.0]), "tokens": np.array([2, 3, 4, 5])}
    metric = perplexity()
    features = metric.features(samples)
    counts = np.array([np.bincount(rows, minlength=4) for rows in product(range(4), repeat=4)])
    every = metric.statistic(counts @ features)
    drawn = bootstrap(features, metric.statistic, 40_000, seed=0)
    for value in np.unique(every.round(9)):
        assert np.mean(np.isclose(drawn, value, atol=1e-8)) == pytest.approx(np.mean(np.isclose(every, value, atol=1e-8)), abs=0.01)


def test_same_seed_same_interval_and_the_size_of_a_chunk_does_not_matter(monkeypatch):
    samples = {"correct": np.arange(50) % 3 == 0}
    first = estimate(accuracy(), samples, level=0.95, resamples=500, seed=1)
    assert estimate(accuracy(), samples, level=0.95, resamples=500, seed=1) == first
    assert estimate(accuracy(), samples, level=0.95, resamples=500, seed=2) != first
    monkeypatch.setattr("lfm_tasks.metrics.bootstrap.CELLS_AT_ONCE", 50 * 7)
    assert estimate(accuracy(), samples, level=0.95, resamples=500, seed=1) == first


def test_bca_equals_scipy():
    x = np.random.default_rng(0).lognormal(size=40)
    metric = plain_mean()
    features = metric.features({"x": x})
    values = bootstrap(features, metric.statistic, 5000, seed=0)
    jackknife = metric.statistic(features.sum(axis=0) - features)
    ours = bca_interval(values, float(x.mean()), jackknife, 0.95)
    theirs = scipy.stats.bootstrap((x,), np.mean, method="BCa", n_resamples=5000, rng=np.random.default_rng(1)).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.03)
    assert ours[0] > percentile_interval(values, 0.95)[0]


def coverage(draw, truth: float, metric: Metric, runs: int = 400) -> float:
    covered = 0
    for run in range(runs):
        found = estimate(metric, draw(np.random.default_rng(run)), level=0.95, resamples=400, seed=run)
        covered += found.low <= truth <= found.high
    return covered / runs


def test_intervals_cover_the_truth_as_often_as_they_say():
    """The standard error of 400 runs is 1.1 points."""
    assert 0.92 <= coverage(lambda g: {"correct": g.random(120) < 0.8}, 0.8, accuracy()) <= 0.985
    assert 0.92 <= coverage(lambda g: {"correct": g.random(40) < 0.98}, 0.98, accuracy()) <= 1.0
    truth = float(np.exp(2.0))
    assert 0.91 <= coverage(lambda g: {"nll": g.gamma(4, 5, 120), "tokens": np.full(120, 10)}, truth, perplexity()) <= 0.985


def test_a_perfect_score_keeps_an_honest_lower_bound():
    found = estimate(accuracy(), {"correct": np.ones(50)}, level=0.95, resamples=200, seed=0)
    expected = scipy.stats.binomtest(50, 50).proportion_ci(0.95, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((1.0, expected.low, expected.high))


@pytest.mark.parametrize(("successes", "n", "level"), [(0, 7, 0.95), (3, 7, 0.9), (44, 50, 0.99)])
def test_wilson_equals_scipy(successes: int, n: int, level: float):
    expected = scipy.stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson_interval(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (30, 12)])
def test_mcnemar_equals_the_binomial_test_and_mid_p_takes_off_half_the_observed_outcome(gained: int, lost: int):
    challenger = np.array([1] * gained + [0] * lost + [1, 0])
    champion = np.array([0] * gained + [1] * lost + [1, 0])
    found = mcnemar(challenger, champion)
    assert (found.gained, found.lost) == (gained, lost)
    if gained + lost == 0:
        assert (found.exact_p, found.mid_p) == (1.0, 1.0)
        return
    assert found.exact_p == pytest.approx(scipy.stats.binomtest(gained, gained + lost).pvalue)
    if gained != lost:
        assert found.mid_p == pytest.approx(found.exact_p - scipy.stats.binom.pmf(gained, gained + lost, 0.5))


def test_paired_bootstrap_of_equal_models_sees_no_difference_however_noisy_the_samples():
    features = accuracy().features({"correct": np.arange(30) % 2})
    first, second = paired_bootstrap(features, features.copy(), accuracy().statistic, 300, seed=0)
    assert (first == second).all()
    assert first.std() > 0


def test_pairing_narrows_the_interval_of_a_difference():
    generator = np.random.default_rng(0)
    hard = generator.random(300)
    champion, challenger = (hard < 0.7).astype(float), (hard < 0.75).astype(float)
    metric = accuracy()
    a, b = (metric.features({"correct": x}) for x in (challenger, champion))
    paired = np.subtract(*paired_bootstrap(a, b, metric.statistic, 2000, seed=0))
    apart = bootstrap(a, metric.statistic, 2000, seed=1) - bootstrap(b, metric.statistic, 2000, seed=2)
    assert paired.std() < apart.std() / 2


def test_randomisation_p_equals_the_enumeration_of_all_exchanges():
    metric, generator = perplexity(), np.random.default_rng(5)
    tokens = np.array([4, 6, 5, 9, 3, 7])
    first, second = (metric.features({"nll": generator.gamma(4, 5, 6), "tokens": tokens}) for _ in range(2))
    observed = abs(np.log(metric.statistic(first.sum(0)) / metric.statistic(second.sum(0))))
    extreme = 0
    for swap in product([0, 1], repeat=6):
        chosen = np.array(swap, bool)[:, None]
        a, b = np.where(chosen, second, first), np.where(chosen, first, second)
        extreme += abs(np.log(metric.statistic(a.sum(0)) / metric.statistic(b.sum(0)))) >= observed - 1e-12
    assert randomisation_p(metric, first, second, 20_000, seed=0) == pytest.approx(extreme / 2**6, abs=0.015)


def test_randomisation_agrees_with_mcnemar_on_zero_one_metrics():
    challenger, champion = np.array([1] * 9 + [0] * 3 + [1] * 8), np.array([0] * 9 + [1] * 3 + [1] * 8)
    features = [accuracy().features({"correct": column}) for column in (challenger, champion)]
    assert randomisation_p(accuracy(), *features, 20_000, seed=0) == pytest.approx(mcnemar(challenger, champion).exact_p, abs=0.015)


def test_three_wins_of_three_are_uncertain_although_their_bootstrap_interval_is_a_point():
    assert superiority(1.0, 1.0, mcnemar(np.ones(3), np.zeros(3)).exact_p, 0.05, 0.0) == "uncertain"


@pytest.mark.parametrize(
    ("value", "low", "expected"),
    [(0.03, 0.01, "better"), (0.03, -0.01, "uncertain"), (0.0, 0.0, "not better"), (-0.1, -0.2, "not better")],
)
def test_superiority(value: float, low: float, expected: str):
    assert superiority(value, low, p=0.001, alpha=0.05, threshold=0.0) == expected


@pytest.mark.parametrize(
    ("value", "low", "expected"),
    [(0.1, 0.05, "holds"), (-0.01, -0.02, "holds"), (-0.01, -0.021, "uncertain"), (-0.03, -0.05, "regresses"), (0.0, 0.0, "holds")],
)
def test_non_inferiority_with_a_margin_of_two_points(value: float, low: float, expected: str):
    assert non_inferiority(value, low, margin=0.02) == expected


def test_a_margin_of_five_percent_is_five_points_of_accuracy_and_a_ratio_of_perplexity():
    assert loss_on_scale(accuracy(), 0.05) == gain_on_scale(accuracy(), 0.05) == 0.05
    ppl = perplexity()
    assert loss_on_scale(ppl, 0.05) == pytest.approx(float(ppl.compare(np.array(10.5), np.array(10.0))))
    assert gain_on_scale(ppl, 0.05) == pytest.approx(-float(ppl.compare(np.array(9.5), np.array(10.0))))
