"""Metrics against scikit-learn and closed forms, on the full sample and on resamples."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from lfm_tasks.metrics.calibration import adaptive_calibration_error, brier_score, expected_calibration_error, reliability
from lfm_tasks.metrics.catalogue import METRICS_OF, build_metric, metric_names
from lfm_tasks.metrics.classification import accuracy, confusion_matrix, macro_f1
from lfm_tasks.metrics.likelihood import bits_per_byte, perplexity


def labelled(n: int, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), size=n)
    target, prediction = generator.integers(classes, size=n), probabilities.argmax(axis=1)
    return {
        "target": target,
        "prediction": prediction,
        "correct": (target == prediction).astype(int),
        "confidence": probabilities.max(axis=1),
        "probabilities": probabilities,
    }


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_macro_f1_and_confusion_equal_scikit_learn(seed: int):
    samples = labelled(n=60, classes=6, seed=seed)
    target, prediction = samples["target"], samples["prediction"]
    assert accuracy().value(samples) == accuracy_score(target, prediction)
    assert macro_f1(6).value(samples) == pytest.approx(f1_score(target, prediction, average="macro"), abs=1e-14)
    assert (confusion_matrix(target, prediction, 6) == sklearn_confusion(target, prediction, labels=range(6))).all()


def test_macro_f1_of_every_resample_equals_scikit_learn_on_that_resample():
    samples = labelled(n=4, classes=3, seed=1)
    metric, resamples = macro_f1(3), np.array(list(product(range(4), repeat=4)))
    counts = np.array([np.bincount(rows, minlength=4) for rows in resamples])
    values = metric.statistic(counts @ metric.features(samples))
    for value, rows in zip(values, resamples, strict=True):
        expected = f1_score(samples["target"][rows], samples["prediction"][rows], average="macro")
        assert value == pytest.approx(expected, abs=1e-14)


def test_a_class_that_nobody_has_or_predicts_does_not_dilute_macro_f1():
    samples = labelled(n=30, classes=3)
    assert macro_f1(9).value(samples) == pytest.approx(macro_f1(3).value(samples))


def test_brier_score_of_two_classes_is_twice_scikit_learns():
    samples = labelled(n=50, classes=2)
    expected = 2 * brier_score_loss(samples["target"], samples["probabilities"][:, 1])
    assert brier_score(2).value(samples) == pytest.approx(expected, abs=1e-14)


def test_perplexity_weighs_tokens_and_not_samples():
    samples = {"nll": np.array([np.log(2.0), 30 * np.log(8.0)]), "tokens": np.array([1, 30])}
    assert perplexity().value(samples) == pytest.approx(2 ** (1 / 31) * 8 ** (30 / 31))


def test_uniform_model_has_the_perplexity_of_its_vocabulary_and_eight_bits_a_byte():
    samples = {"nll": np.log(256.0) * np.array([3.0, 5.0]), "tokens": np.array([3, 5]), "bytes": np.array([3, 5])}
    assert perplexity().value(samples) == pytest.approx(256)
    assert bits_per_byte().value(samples) == pytest.approx(8)


def naive_ece(confidence: np.ndarray, correct: np.ndarray, edges: np.ndarray) -> float:
    """Guo et al., eq. 3, bin by bin; bins are (low, high]."""
    error = 0.0
    for i, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = (confidence > low if i else confidence >= low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return error


@pytest.mark.parametrize("bins", [2, 7, 15])
def test_calibration_errors_equal_the_definition_bin_by_bin(bins: int):
    samples = labelled(n=200, classes=4)
    confidence, correct = samples["confidence"], samples["correct"]
    even, quantile = np.linspace(0, 1, bins + 1), np.quantile(confidence, np.linspace(0, 1, bins + 1))
    assert expected_calibration_error(bins).value(samples) == pytest.approx(naive_ece(confidence, correct, even))
    assert adaptive_calibration_error(bins).value(samples) == pytest.approx(naive_ece(confidence, correct, quantile))


def test_perfect_confidence_has_no_calibration_error_and_certain_nonsense_has_all_of_it():
    right = {"confidence": np.ones(20), "correct": np.ones(20)}
    wrong = {"confidence": np.ones(20), "correct": np.zeros(20)}
    for metric in (expected_calibration_error(10), adaptive_calibration_error(10)):
        assert metric.value(right) == 0
        assert metric.value(wrong) == 1


def test_reliability_bins_hold_every_sample_and_give_back_the_calibration_error():
    samples = labelled(n=300, classes=5)
    bins = reliability(samples["confidence"], samples["correct"], 10)
    assert bins.count.sum() == 300
    error = (bins.count * np.abs(bins.accuracy - bins.confidence)).sum() / 300
    assert error == pytest.approx(expected_calibration_error(10).value(samples))
    assert ((bins.low <= bins.confidence) & (bins.confidence <= bins.high)).all()


@pytest.mark.parametrize("name", [name for group in METRICS_OF for name in metric_names(group)])
def test_order_of_samples_changes_no_metric(name: str):
    samples = labelled(n=40, classes=3) | {"nll": np.linspace(1, 9, 40), "tokens": np.arange(2, 42), "bytes": np.arange(9, 49)}
    order = np.random.default_rng(0).permutation(40)
    metric = build_metric(name, classes=3, bins=10)
    shuffled = {column: values[order] for column, values in samples.items()}
    assert metric.value(shuffled) == pytest.approx(metric.value(samples), rel=1e-13)


@pytest.mark.parametrize("name", ["choice/accuracy", "choice/macro_f1", "general/perplexity"])
def test_swapping_two_models_negates_their_difference(name: str):
    metric = build_metric(name, classes=3, bins=10)
    assert metric.compare(np.array(0.7), np.array(0.9)) == -metric.compare(np.array(0.9), np.array(0.7))
