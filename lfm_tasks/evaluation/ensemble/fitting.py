"""What an ensemble learns from the validation split: a temperature for each member, or a regression on what they say."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from lfm_tasks.evaluation.answers import Floats, Integers

TEMPERATURES = (0.01, 100.0)
MOST_ITERATIONS = 1000


def fit_temperature(scores: Floats, target: Integers) -> float:
    """The T that minimises the negative log-likelihood of ``softmax(scores / T)``, ``scores`` ``[n, classes]`` (arXiv 1706.04599).

    The loss is convex in 1/T, so there is one minimum; T stays within :data:`TEMPERATURES`.
    """

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(scores / np.exp(log_temperature), target)

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))


def fit_stacking(members: Floats, target: Integers, penalty: float) -> tuple[Floats, Floats]:
    """Weights ``[members, classes, classes]`` and biases ``[classes]`` of a multinomial logistic regression on log-probabilities
    ``[members, n, classes]``, by L-BFGS from the mean of logits.

    It minimises ``mean nll + penalty / (2 n) · (|weights - mean of logits|² + |biases|²)``: with little data, or classes that the
    data lacks, it stays near the mean.
    """
    count, n, classes = members.shape
    features = np.moveaxis(members, 0, 1).reshape(n, count * classes)
    prior = np.concatenate([np.tile(np.eye(classes) / count, (count, 1)), np.zeros((1, classes))])
    one_hot = target[:, None] == np.arange(classes)

    def loss(flat: Floats) -> tuple[float, Floats]:
        away = flat.reshape(prior.shape)
        weights = prior + away
        predicted = log_softmax(features @ weights[:-1] + weights[-1], axis=1)
        error = (np.exp(predicted) - one_hot) / n
        gradient = np.concatenate([features.T @ error, error.sum(axis=0, keepdims=True)]) + penalty / n * away
        return float(-predicted[one_hot].mean() + penalty / (2 * n) * np.sum(away**2)), gradient.ravel()

    options = {"maxiter": MOST_ITERATIONS, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(loss, np.zeros(prior.size), jac=True, method="L-BFGS-B", options=options)
    fitted = prior + found.x.reshape(prior.shape)
    return fitted[:-1].reshape(count, classes, classes), fitted[-1]


def stack(members: Floats, weights: Floats, biases: Floats) -> Floats:
    """Log-probabilities ``[n, classes]`` of the regression on the members' log-probabilities."""
    return log_softmax(np.einsum("mnc,mcd->nd", members, weights) + biases, axis=-1)


def negative_log_likelihood(scores: Floats, target: Integers) -> float:
    """Mean over the samples, in nats."""
    return float(-log_softmax(scores, axis=-1)[np.arange(len(target)), target].mean())
