"""The methods of the step *ensemble*: what each makes of the members' answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lfm_tasks.evaluation.answers import ClassScores, Floats, Integers
from lfm_tasks.evaluation.ensemble import combining
from lfm_tasks.evaluation.ensemble.config import (
    MemberLikelihoodConfig,
    MinimumBayesRiskConfig,
    NoOptions,
    StackingConfig,
    TemperatureScaledConfig,
    WeightedOptions,
)
from lfm_tasks.evaluation.ensemble.fitting import fit_stacking, fit_temperature, negative_log_likelihood, stack
from lfm_tasks.evaluation.ensemble.rankers import LogLikelihoods, MemberLikelihood, MinimumBayesRisk
from lfm_tasks.evaluation.ensemble.ranking import Ranker


@dataclass(frozen=True)
class Combined:
    """``probabilities`` ``[n, classes]``; ``predicted`` ``[n]`` where that is not the likeliest class; what was ``learned``."""

    probabilities: Floats
    predicted: Integers | None = None
    learned: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EnsembleMethod:
    """How answers of each kind become one; None where a method has no way.

    ``classes`` gets scores ``[members, n, classes]``, the options, and the members' answers on the validation split where the method
    is ``fitted``. ``tokens`` gets log-probabilities ``[members, tokens]``. ``ranker`` gets the likelihoods of all candidates under all
    members where they are ``rescored``.
    """

    classes: Callable[[Floats, Any, Sequence[ClassScores]], Combined] | None = None
    tokens: Callable[[Floats, Any], Floats] | None = None
    ranker: Callable[[Any, LogLikelihoods], Ranker] | None = None
    least: int = 1
    fitted: bool = False
    rescored: bool = False


def _weighted(rule: Callable[[Floats, Sequence[float]], Floats]) -> Callable[[Floats, WeightedOptions, Sequence[ClassScores]], Combined]:
    return lambda scores, options, _: Combined(np.exp(rule(scores, options.shares(len(scores)))))


def _plain(rule: Callable[[Floats], Floats]) -> Callable[[Floats, NoOptions, Sequence[ClassScores]], Combined]:
    return lambda scores, _, __: Combined(np.exp(rule(scores)))


def _vote(scores: Floats, options: WeightedOptions, _: Sequence[ClassScores]) -> Combined:
    shares = options.shares(len(scores))
    return Combined(combining.vote_shares(scores, shares), combining.vote_winners(scores, shares))


def _temperature_scaled(scores: Floats, options: TemperatureScaledConfig, validation: Sequence[ClassScores]) -> Combined:
    temperatures = [fit_temperature(member.scores, member.target) for member in validation]
    rule = {"probability_mean": combining.probability_mean, "logit_mean": combining.logit_mean}[options.combine]
    scaled = scores / np.array(temperatures)[:, None, None]
    learned = {"fitted_on": len(validation[0].target), "temperatures": temperatures}
    return Combined(np.exp(rule(scaled, options.shares(len(scores)))), learned=learned)


def _stacking(scores: Floats, options: StackingConfig, validation: Sequence[ClassScores]) -> Combined:
    seen, target = np.stack([member.scores for member in validation]), validation[0].target
    before, after = combining.members_log_probabilities(seen), combining.members_log_probabilities(scores)
    weights, biases = fit_stacking(before, target, options.penalty)
    learned = {
        "fitted_on": len(target),
        "nll_of_mean": negative_log_likelihood(before.mean(axis=0), target),
        "nll_fitted": negative_log_likelihood(stack(before, weights, biases), target),
    }
    return Combined(np.exp(stack(after, weights, biases)), learned=learned)


def _minimum_bayes_risk(options: MinimumBayesRiskConfig, _: LogLikelihoods) -> Ranker:
    return MinimumBayesRisk(options.similarity)


def _member_likelihood(options: MemberLikelihoodConfig, log_likelihoods: LogLikelihoods) -> Ranker:
    return MemberLikelihood(log_likelihoods)


PROBABILITY_MEAN = EnsembleMethod(
    _weighted(combining.probability_mean), lambda found, options: combining.mixture(found, options.shares(len(found)))
)
LOGIT_MEAN = EnsembleMethod(_weighted(combining.logit_mean))
MAX_LOGIT = EnsembleMethod(_plain(combining.max_logit))
MOST_CONFIDENT = EnsembleMethod(_plain(combining.most_confident))
VOTE = EnsembleMethod(_vote)
TEMPERATURE_SCALED = EnsembleMethod(_temperature_scaled, fitted=True)
STACKING = EnsembleMethod(_stacking, fitted=True)
MINIMUM_BAYES_RISK = EnsembleMethod(ranker=_minimum_bayes_risk, least=3)
MEMBER_LIKELIHOOD = EnsembleMethod(ranker=_member_likelihood, least=2, rescored=True)
