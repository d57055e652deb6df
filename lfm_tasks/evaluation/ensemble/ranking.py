"""Rank the answers of many models by comparing them in pairs, as PairRanker does (Jiang et al. 2023, LLM-Blender, arXiv 2306.02561)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from lfm_tasks.evaluation.answers import Floats

Pair = tuple[int, int]


class Ranker(Protocol):
    """Anything that can compare two answers: a measure of likeness, models that judge, a cross-encoder that was trained to."""

    def compare(self, prompt: str, candidates: Sequence[str], pairs: Sequence[Pair]) -> Sequence[float]:
        """For each pair (i, j) how much better candidate i is than candidate j; 0 where they are equal. A ranker may depend on
        which of the two it reads first: both orders are asked for."""


def rank(ranker: Ranker, prompt: str, candidates: Sequence[str]) -> Floats:
    """The comparison matrix ``[candidates, candidates]`` after all N(N-1) comparisons: entry (i, j) is half of what the ranker
    says of (i, j) less what it says of (j, i), so the matrix is antisymmetric."""
    count = len(candidates)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    matrix = np.zeros((count, count))
    if pairs:
        matrix[tuple(np.transpose(pairs))] = ranker.compare(prompt, candidates, pairs)
    return (matrix - matrix.T) / 2


def best(matrix: Floats, aggregate: Literal["wins", "sum"]) -> int:
    """The candidate that beats most others, or whose margins have the largest sum; of equals the first."""
    merit = np.sign(matrix).sum(axis=1) if aggregate == "wins" else matrix.sum(axis=1)
    return int(np.flatnonzero(merit >= merit.max() - 1e-12 * max(1.0, np.abs(matrix).max()))[0])


def bubble(ranker: Ranker, prompt: str, candidates: Sequence[str]) -> int:
    """The best so far against the next, N-1 times; of equals the first. On transitive comparisons this is the winner of :func:`rank`."""
    leader = 0
    for rival in range(1, len(candidates)):
        forth, back = ranker.compare(prompt, candidates, [(leader, rival), (rival, leader)])
        if back > forth:
            leader = rival
    return leader


def choose(
    ranker: Ranker, prompt: str, candidates: Sequence[str], comparisons: Literal["all", "bubble"], aggregate: Literal["wins", "sum"]
) -> int:
    if comparisons == "bubble":
        return bubble(ranker, prompt, candidates)
    return best(rank(ranker, prompt, candidates), aggregate)
