"""From answers to per-sample tables, one for each aspect and protocol, and to one line for each fact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.edits.asking import Forced, Pair, answer_of, begins_with, is_whole
from lfm_tasks.evaluation.edits.questions import Question
from lfm_tasks.facts.record import Fact
from lfm_tasks.metrics.samples import of_group, sample_table

COMPARED = ("efficacy", "paraphrase", "neighbourhood", "retention")
ANSWERED = ("efficacy", "paraphrase", "portability", "retention")
KEPT = ("neighbourhood", "locality")
"""Aspects whose answers shall stay as the base gives them."""


@dataclass(frozen=True)
class Answers:
    """What one model said: ``forced`` to (prompt, answer) pairs, ``free`` after prompts, ``kept`` after those of the aspects that stay."""

    forced: Mapping[Pair, Forced]
    free: Mapping[str, str]
    kept: Mapping[str, str]

    def said(self, question: Question) -> str:
        return answer_of((self.kept if question.aspect in KEPT else self.free)[question.prompt])

    def likeliest(self, question: Question) -> str:
        """The tokens that it finds likeliest where the right answer stands, as text."""
        return " ".join(map(str, self.forced[question.prompt, question.answers[0]].likeliest))


@dataclass(frozen=True)
class Before:
    """What the base said to the questions whose answers shall stay, by sample id."""

    said: Mapping[str, str]
    likeliest: Mapping[str, str]


@dataclass
class Group:
    """A per-sample table, and the fact that each of its lines is about."""

    table: pa.Table
    facts: list[str]

    @property
    def clusters(self) -> np.ndarray:
        return np.unique(np.array(self.facts), return_inverse=True)[1]


@dataclass
class Sheet:
    """Lines of a group to be."""

    questions: list[Question] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, question: Question, **values: Any) -> None:
        self.questions.append(question)
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

    def group(self, name: str) -> Group:
        prompts = [hashlib.sha256(question.prompt.encode()).hexdigest() for question in self.questions]
        ids = {"sample_id": [question.sample_id for question in self.questions], "prompt_sha256": prompts}
        return Group(sample_table(name, ids | self.columns), [question.fact for question in self.questions])


def pairs_of(questions: Sequence[Question]) -> list[Pair]:
    """Every prompt with the answers that are asked for under teacher forcing."""
    forced = [question for question in questions if question.aspect.partition(".")[0] != "portability"]
    both = [(question.prompt, answer) for question in forced for answer in (question.answers[0], question.wrong) if answer is not None]
    return list(dict.fromkeys(both))


def before_of(questions: Sequence[Question], answers: Answers) -> Before:
    kept = [question for question in questions if question.aspect in KEPT]
    return Before({q.sample_id: answers.said(q) for q in kept}, {q.sample_id: answers.likeliest(q) for q in kept})


def read_before(samples: pa.Table, questions: Sequence[Question]) -> Before:
    """From the report of the base. Raises :class:`DataError` where it was asked other questions."""
    found = []
    for protocol in ("free_running", "teacher_forced_tokens"):
        rows = of_group(samples, f"locality.{protocol}")
        found.append(dict(zip(rows["sample_id"].to_pylist(), rows["prediction"].to_pylist(), strict=True)))
    for question in questions:
        if question.aspect in KEPT and question.sample_id not in found[0]:
            raise DataError(
                f"The base's report has no answer to {question.sample_id} ({question.prompt!r}). Evaluate the base on the same facts."
            )
    return Before(*found)


def make_groups(questions: Sequence[Question], answers: Answers, before: Before | None) -> dict[str, Group]:
    """Groups that have lines, by name."""
    sheets: dict[str, Sheet] = {}

    def sheet(aspect: str, protocol: str) -> Sheet:
        return sheets.setdefault(f"{aspect}.{protocol}", Sheet())

    for question in questions:
        aspect = question.aspect.partition(".")[0]
        if aspect in COMPARED and question.wrong is not None:
            _compare(sheet(aspect, "teacher_forced"), question, answers)
        if aspect == "efficacy":
            hits = answers.forced[question.prompt, question.answers[0]].hits
            sheet(aspect, "teacher_forced_tokens").add(question, target=question.answers[0], confidence=float(hits.mean()))
            whole = is_whole(answers.free[question.prompt], question.answers[0])
            columns = {"target": question.answers[0], "prediction": answers.said(question), "correct": int(whole)}
            sheet(aspect, "free_running_whole").add(question, **columns)
        for name in dict.fromkeys((aspect, question.aspect)):
            if aspect in ANSWERED:
                columns = {"target": question.answers[0], "prediction": answers.said(question), "correct": int(right(question, answers))}
                sheet(name, "free_running").add(question, **columns)
        if question.aspect in KEPT:
            _keep(sheet("locality", "free_running"), sheet("locality", "teacher_forced_tokens"), question, answers, before)
    return {name: sheet.group(name) for name, sheet in sheets.items()}


def right(question: Question, answers: Answers) -> bool:
    """Whether the free answer begins with one that counts."""
    return any(begins_with(answers.free[question.prompt], answer) for answer in question.answers)


def success(question: Question, answers: Answers) -> bool:
    return _probability(question, answers) > answers.forced[question.prompt, question.wrong or ""].probability


def _probability(question: Question, answers: Answers) -> float:
    return answers.forced[question.prompt, question.answers[0]].probability


def _compare(sheet: Sheet, question: Question, answers: Answers) -> None:
    asked, wrong = answers.forced[question.prompt, question.answers[0]], answers.forced[question.prompt, question.wrong or ""]
    better = asked.probability > wrong.probability
    sheet.add(
        question,
        target=question.answers[0],
        prediction=question.answers[0] if better else question.wrong,
        correct=int(better),
        nll=float(-asked.log_probability.sum()),
        tokens=len(asked.wanted),
        probabilities=[asked.probability, wrong.probability],
    )


def _keep(free: Sheet, tokens: Sheet, question: Question, answers: Answers, before: Before | None) -> None:
    said, likeliest = answers.said(question), answers.likeliest(question)
    if before is None:
        free.add(question, prediction=said)
        tokens.add(question, prediction=likeliest)
        return
    old, was = before.likeliest[question.sample_id], before.said[question.sample_id]
    same = np.mean([a == b for a, b in zip(likeliest.split(), old.split(), strict=True)])
    free.add(question, target=was, prediction=said, correct=int(said == was))
    tokens.add(question, target=old, prediction=likeliest, confidence=float(same))


def fact_lines(facts: Sequence[Fact], questions: Sequence[Question], answers: Answers, before: Before | None) -> list[dict[str, Any]]:
    """One line for each fact: what the model says now, and shares over the fact's own questions; None where there is none."""
    asked: dict[str, dict[str, list[Question]]] = {}
    for question in questions:
        asked.setdefault(question.fact, {}).setdefault(question.aspect.partition(".")[0], []).append(question)
    lines = []
    for fact in facts:
        by_aspect = asked[fact.id]
        (own,) = by_aspect["efficacy"]
        kept = [question for aspect in KEPT for question in by_aspect.get(aspect, [])]
        near = by_aspect.get("neighbourhood", [])
        lines.append(
            {
                "id": fact.id,
                "subject": fact.subject,
                "relation": fact.relation,
                "prompt": fact.text,
                "target_new": fact.target_new,
                "target_true": fact.target_true,
                "answer": answers.said(own),
                "prefix_match": right(own, answers),
                "exact_match": is_whole(answers.free[own.prompt], fact.target_new),
                "p_new": _probability(own, answers),
                "p_true": answers.forced[own.prompt, own.wrong].probability if own.wrong is not None else None,
                "token_accuracy": float(answers.forced[own.prompt, own.answers[0]].hits.mean()),
                "paraphrase_prefix_match": _share([right(one, answers) for one in by_aspect.get("paraphrase", [])]),
                "paraphrase_success": _share([success(one, answers) for one in by_aspect.get("paraphrase", []) if one.wrong is not None]),
                "neighbourhood_success": _share([success(one, answers) for one in near]),
                "neighbours": len(near),
                "neighbours_left_out": len(fact.neighbours) - len(near),
                "unchanged": _share([answers.said(one) == before.said[one.sample_id] for one in kept]) if before else None,
                "portability": _share([right(one, answers) for one in by_aspect.get("portability", [])]),
            }
        )
    return lines


def _share(outcomes: list[bool]) -> float | None:
    return float(np.mean(outcomes)) if outcomes else None
