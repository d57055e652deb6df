"""How like one text is to another, from 0 to 1."""

from __future__ import annotations

from collections import Counter

from lfm_tasks.metrics.answers import normalise


def exact(hypothesis: str, reference: str) -> float:
    return float(normalise(hypothesis) == normalise(reference))


def token_f1(hypothesis: str, reference: str) -> float:
    """F1 of the bags of normalised words, as SQuAD has it; two texts without words are equal."""
    ours, theirs = Counter(normalise(hypothesis).split()), Counter(normalise(reference).split())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())
