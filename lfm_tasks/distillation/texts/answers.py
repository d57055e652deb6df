"""Answers of a teacher, whoever it is, and the rows that are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfm_tasks.distillation.black_box.questions import Question
    from lfm_tasks.distillation.black_box.reply import Place

ECHOED_WORDS = 3


@dataclass(frozen=True)
class Answer:
    """A raw text and the hash of what was asked for it, parameters included; ``model`` is who the teacher says it is."""

    text: str
    request_sha256: str
    model: str = ""
    finish: str = ""
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Asked:
    """The answers to each question, in the order of questions; ``counts`` is the query meter, ``spent`` the budget that ended it."""

    answers: list[list[Answer]]
    teacher: str
    decoding: dict[str, Any]
    counts: Mapping[str, int] = field(default_factory=dict)
    spent: str = ""


def echoes(text: str, asked: str) -> bool:
    """Whether ``text`` begins with the question, as a sentence of it: an answer may begin with the same word by right."""
    asked, rest = asked.strip(), text.lstrip()
    return len(asked.split()) >= ECHOED_WORDS and rest.startswith(asked) and not rest[len(asked) : len(asked) + 1].isalnum()


def cleaned(text: str, asked: str, stop: Iterable[str]) -> str:
    """``text`` without an echo of the question, up to the first of the ``stop`` texts, without spaces around it.

    What joins prompt and completion (a space, a line break) is the completion template's of the step *prepare*.
    """
    start, end = bounds(text, asked, stop)
    return text[start:end]


def bounds(text: str, asked: str, stop: Iterable[str]) -> tuple[int, int]:
    """Where in ``text`` that lies which :func:`cleaned` keeps."""
    start = len(text) - len(text.lstrip()) + len(asked.strip()) if echoes(text, asked) else 0
    end = min((place for place in (text.find(one, start) for one in stop) if place >= 0), default=len(text))
    kept = text[start:end]
    return start + len(kept) - len(kept.lstrip()), start + len(kept.rstrip())


def make_rows(questions: Sequence[Question], asked: Asked, stop: Iterable[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A row for each answer that can be learnt from, in the order of questions, and how many were empty, echoes or written twice."""
    stop, counts, rows = tuple(stop), Counter(empty=0, echoes=0, duplicates=0), []
    for question, answers in zip(questions, asked.answers, strict=True):
        seen: set[str] = set()
        for answer in answers:
            text = cleaned(answer.text, question.asked, stop)
            counts["echoes"] += echoes(answer.text, question.asked)
            if not text:
                counts["empty"] += 1
            elif text in seen:
                counts["duplicates"] += 1
            else:
                seen.add(text)
                rows.append(_row(question, text, answer, asked))
    return rows, dict(counts)


def _row(question: Question, completion: str, answer: Answer, asked: Asked) -> dict[str, Any]:
    row = {
        "prompt": question.prompt,
        "completion": completion,
        "reference": question.reference,
        "teacher": asked.teacher,
        "model": answer.model,
        "finish": answer.finish,
        "decoding": asked.decoding,
        "request_sha256": answer.request_sha256,
    }
    return (
        row
        | ({"raw": answer.text} if answer.text != completion else {})
        | ({"asked": question.asked} if question.asked != question.prompt else {})
    )
