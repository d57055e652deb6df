"""Rankers that need no training: likeness to the other answers, and likelihood under the models themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import fsum

from lfm_tasks.evaluation.ensemble.ranking import Pair
from lfm_tasks.evaluation.ensemble.similarity import exact, token_f1
from lfm_tasks.metrics.chrf import chrf

LogLikelihoods = Mapping[tuple[str, str], Sequence[float]]
SIMILARITIES: dict[str, Callable[[str, str], float]] = {"chrf": chrf, "token_f1": token_f1, "exact": exact}


class MinimumBayesRisk:
    """The better of two answers is more like all answers on average (Kumar and Byrne 2004). Equal answers of several models count
    as often as they were given."""

    def __init__(self, similarity: str) -> None:
        self._similarity = SIMILARITIES[similarity]

    def compare(self, prompt: str, candidates: Sequence[str], pairs: Sequence[Pair]) -> list[float]:
        asked = {text: self._utility(text, candidates) for text in {candidates[place] for pair in pairs for place in pair}}
        return [asked[candidates[i]] - asked[candidates[j]] for i, j in pairs]

    def _utility(self, text: str, candidates: Sequence[str]) -> float:
        return fsum(self._similarity(text, other) for other in candidates) / len(candidates)


class MemberLikelihood:
    """The better of two answers is likelier under the members: the mean over them of its log-likelihood (nats).

    ``log_likelihoods`` has one for each member, by prompt and answer.
    """

    def __init__(self, log_likelihoods: LogLikelihoods) -> None:
        self._log_likelihoods = log_likelihoods

    def compare(self, prompt: str, candidates: Sequence[str], pairs: Sequence[Pair]) -> list[float]:
        found = {text: self._log_likelihoods[prompt, text] for text in set(candidates)}
        means = {text: fsum(likelihoods) / len(likelihoods) for text, likelihoods in found.items()}
        return [means[candidates[i]] - means[candidates[j]] for i, j in pairs]
