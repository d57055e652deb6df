"""Ask the members of an ensemble, one after another: each is opened, asked everything and closed before the next is opened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lfm_tasks.evaluation.answers import Answers, Integers, Texts
from lfm_tasks.evaluation.ensemble.config import EnsembleConfig
from lfm_tasks.evaluation.ensemble.rankers import LogLikelihoods
from lfm_tasks.evaluation.evaluate import Counter, Plan, open_subject
from lfm_tasks.evaluation.likelihood import continuation, log_probabilities
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.generating import stop_tokens
from lfm_tasks.step import Input, StepContext


@dataclass
class Member:
    """``answers`` to the plan, in its order; ``validation``: those to the rows that a method is fitted on; ``fresh``: modules that
    were drawn at random."""

    source: Input
    parameters: int
    fresh: list[str]
    answers: list[Answers]
    validation: list[Answers]
    cpu_seconds: float


def ask(source: Input, head: Input | None, plan: Plan, fitted_on: Plan, config: EnsembleConfig, counter: Counter) -> Member:
    began = time.process_time()
    subject, fresh = open_subject(source, head, plan, config.seed)
    answers, validation = ([task.ask(subject, rows, config, counter) for task, rows in asked] for asked in (plan, fitted_on))
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    return Member(source, parameters, fresh, answers, validation, time.process_time() - began)


def judge(members: Sequence[Member], plan: Plan, config: EnsembleConfig, per_token: bool, context: StepContext) -> LogLikelihoods:
    """The log-likelihood of every member's answers to the first task under every member, by prompt and answer."""
    candidates = _candidates([member.answers[0] for member in members])
    counter = Counter(context, len(members) * len(candidates))
    found: dict[tuple[str, str], list[float]] = {key: [] for key in candidates}
    for member in members:
        began = time.process_time()
        subject, _ = open_subject(member.source, None, plan, config.seed)
        for key, value in zip(found, _judged_by(subject, list(candidates.values()), config, per_token, counter), strict=True):
            found[key].append(value)
        member.cpu_seconds += time.process_time() - began
    return found


def _candidates(said: Sequence[Texts]) -> dict[tuple[str, str], tuple[Integers, Integers]]:
    """Tokens of the prompt and of the answer, by prompt and answer; equal answers are judged once."""
    rows, found = said[0].rows, {}
    for row, (ids, count) in enumerate(zip(rows.input_ids, rows.columns["prompt_tokens"], strict=True)):
        for texts in said:
            found.setdefault((rows.columns["prompt"][row], texts.texts[row]), (ids[:count], texts.tokens[row]))
    return found


def _judged_by(
    subject: Subject, candidates: list[tuple[Integers, Integers]], config: EnsembleConfig, per_token: bool, counter: Counter
) -> list[float]:
    """An answer that ended before the longest allowed is judged with its end."""
    stop = stop_tokens(subject.model, subject.tokenizer)
    end = subject.tokenizer.eos_token_id if subject.tokenizer.eos_token_id is not None else next(iter(stop), None)
    queries = []
    for prompt, answer in candidates:
        ending = [] if end is None or len(answer) >= config.max_new_tokens else [end]
        queries.append(continuation(np.concatenate([prompt, answer, ending]).astype(np.int64), len(prompt)))
    answers = log_probabilities(subject.model, queries, config.batch_tokens, counter)
    return [float(answer.sum() / (max(1, len(answer)) if per_token else 1)) for answer in answers]
