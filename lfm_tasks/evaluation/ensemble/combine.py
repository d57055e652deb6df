"""The members' answers of one kind to the table of the ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from lfm_tasks.config import Config
from lfm_tasks.evaluation.answers import Answers, ClassScores, Texts, TokenLikelihoods, labelled_columns, scored
from lfm_tasks.evaluation.ensemble.methods import EnsembleMethod
from lfm_tasks.evaluation.ensemble.rankers import LogLikelihoods
from lfm_tasks.evaluation.ensemble.ranking import choose

Learned = dict[str, Any]


def combine(
    method: EnsembleMethod, options: Config, members: Sequence[Answers], validation: Sequence[Answers], judged: LogLikelihoods
) -> tuple[pa.Table, Learned]:
    """One line per sample, and what was fitted on ``validation``. All members answered the same rows."""
    match members[0]:
        case ClassScores():
            return _classes(method, options, members, validation)
        case TokenLikelihoods():
            return _tokens(method, options, members), {}
        case Texts():
            return _texts(method, options, members, judged), {}


def _classes(
    method: EnsembleMethod, options: Config, members: Sequence[ClassScores], validation: Sequence[ClassScores]
) -> tuple[pa.Table, Learned]:
    """``nll`` is that of the target among the classes; a choice has none, as its members' is that of a text."""
    first = members[0]
    combined = method.classes(np.stack([member.scores for member in members]), options, validation)
    columns = labelled_columns(first.rows.labels, first.target, combined.probabilities, combined.predicted)
    if first.group == "classification":
        own = combined.probabilities[np.arange(len(first.rows)), first.target]
        columns |= {"nll": -np.log(np.maximum(own, np.finfo(np.float64).tiny)), "tokens": first.tokens}
    return scored(first.group, first.rows, columns), combined.learned


def _tokens(method: EnsembleMethod, options: Config, members: Sequence[TokenLikelihoods]) -> pa.Table:
    first = members[0]
    combined = method.tokens(np.stack([np.concatenate(member.log_probabilities) for member in members]), options)
    ends = np.cumsum([len(answer) for answer in first.log_probabilities])[:-1]
    return TokenLikelihoods(first.group, first.rows, np.split(combined, ends), first.bytes).table()


def _texts(method: EnsembleMethod, options: Any, members: Sequence[Texts], judged: LogLikelihoods) -> pa.Table:
    """Likeness is of the answers that are measured: reasons differ where answers agree. Members judge whole texts, as they were written."""
    first, ranker = members[0], method.ranker(options, judged)
    compared = [member.texts if method.rescored else member.answers for member in members]
    chosen = [
        members[choose(ranker, prompt, [texts[row] for texts in compared], options.comparisons, options.aggregate)]
        for row, prompt in enumerate(first.rows.columns["prompt"])
    ]
    tokens, texts = [one.tokens[row] for row, one in enumerate(chosen)], [one.texts[row] for row, one in enumerate(chosen)]
    return replace(first, tokens=tokens, texts=texts).table()
