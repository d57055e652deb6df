"""How like one text is to another by their character n-grams, from 0 to 1."""

from __future__ import annotations

from collections import Counter

CHARACTERS, BETA = 6, 2


def chrf(hypothesis: str, reference: str) -> float:
    """chrF (Popović 2015): F2 of precision and recall, each the mean over character n-grams of lengths 1 to 6, spaces left out.

    As sacrebleu has it for one sentence: lengths that either text is too short for are left out.
    """
    ours, theirs = "".join(hypothesis.split()), "".join(reference.split())
    pairs = [(_ngrams(ours, n), _ngrams(theirs, n)) for n in range(1, 1 + min(CHARACTERS, len(ours), len(theirs)))]
    if not pairs:
        return float(ours == theirs)
    hits = [(a & b).total() for a, b in pairs]
    precision = sum(hit / a.total() for hit, (a, _) in zip(hits, pairs, strict=True)) / len(pairs)
    recall = sum(hit / b.total() for hit, (_, b) in zip(hits, pairs, strict=True)) / len(pairs)
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall) if hits[0] else 0.0


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))
