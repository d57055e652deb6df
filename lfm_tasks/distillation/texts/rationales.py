"""A teacher's rationales: read, sifted, and made into what a student learns (step by step, arXiv 2305.02301). Pure functions."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lfm_tasks.distillation.texts.arithmetic import evaluate, false_equations
from lfm_tasks.distillation.texts.config import ChainOfThoughtConfig, StepByStepConfig
from lfm_tasks.metrics.answers import normalise, split_at_answer

FEWEST_WORDS = 3
"""A rationale of fewer words besides the answer says nothing more than it."""
REASONS = ("no_answer", "wrong_answer", "false_arithmetic", "leakage")


class Rationale(NamedTuple):
    answer: str
    text: str


def parse(text: str, marks: Iterable[str]) -> Rationale | None:
    """The answer, on one line after the last of the ``marks``, and what comes before it; None where either is missing."""
    found = split_at_answer(text, marks)
    if found is None:
        return None
    rationale, answer = _without_opening(found[0].rstrip()), found[1]
    return Rationale(answer, rationale) if answer and rationale else None


def same_answer(one: str, other: str) -> bool:
    """Equal numbers, or equal texts, forms, case, spaces and outer punctuation aside."""
    try:
        return evaluate(one) == evaluate(other)
    except (ValueError, ZeroDivisionError):
        return normalise(one) == normalise(other)


def leaks(rationale: Rationale) -> bool:
    """Whether the rationale gives the answer away before it has reasoned: it begins with it, or hardly holds a word beside it."""
    words, answer = _words(rationale.text), _words(rationale.answer)
    return words[: len(answer)] == answer or sum(word not in answer for word in words) < FEWEST_WORDS


def reject(rationale: Rationale | None, reference: str | None, *, require: bool, arithmetic: bool, leakage: bool) -> str:
    """Why the rationale is not kept, one of :data:`REASONS`; empty where it is."""
    if rationale is None:
        return "no_answer"
    if require and (reference is None or not same_answer(rationale.answer, reference)):
        return "wrong_answer"
    if arithmetic and false_equations(rationale.text):
        return "false_arithmetic"
    return "leakage" if leakage and leaks(rationale) else ""


def step_by_step(prompt: str, rationale: Rationale, label: str, options: StepByStepConfig) -> list[dict[str, Any]]:
    """Two tasks of one question, which holds them together in *prepare*. That gives the two α and 1 − α of the loss, by their part."""
    explain = options.explain_prompt.replace("{prompt}", prompt)
    return [
        {"prompt": prompt, "completion": label, "part": "predict", "question": prompt},
        {"prompt": explain, "completion": rationale.text, "part": "explain", "question": prompt},
    ]


def chain_of_thought(prompt: str, rationale: Rationale, label: str, options: ChainOfThoughtConfig) -> list[dict[str, Any]]:
    """One task: the rationale, then the answer."""
    return [{"prompt": prompt, "completion": rationale.text + options.closing.replace("{answer}", label), "part": "chain"}]


def _without_opening(text: str) -> str:
    """Without the last line where it only leads to the answer ("So the final")."""
    head, _, last = text.rpartition("\n")
    words = _words(last)
    opening = len(words) <= 4 and set(words) <= {"so", "therefore", "thus", "the", "final", "hence", "my"}
    return head.rstrip() if opening else text


def _words(text: str) -> list[str]:
    return [bare for word in normalise(text).split() if (bare := word.strip(string.punctuation))]


def sift(
    rows: Sequence[dict[str, Any]], marks: Iterable[str], **filters: bool
) -> tuple[list[tuple[dict[str, Any], Rationale]], dict[str, int]]:
    """The rows that are kept, each with its rationale, and how many were not, by reason."""
    marks, counts, kept = tuple(marks), dict.fromkeys(REASONS, 0), []
    for row in rows:
        rationale = parse(row["completion"], marks)
        if why := reject(rationale, row.get("reference"), **filters):
            counts[why] += 1
        else:
            kept.append((row, rationale))
    return kept, counts
