"""Which of the fixed completions does the model find likeliest after the prompt?

All completions of a prompt are scored in one forward pass: the prompt is the trunk, the completions are branches that see
the trunk and themselves only. A completion's last token is never fed, since nothing after it is asked; where every
completion is a single token the pass is that of the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedModel

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.answers import ClassScores
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.generation import prompts_of
from lfm_tasks.evaluation.likelihood import Progress, Query, continuation, log_probabilities
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.prepared import Rows

Tokens = NDArray[np.int64]
TOLERANCE = 1e-3


class Choice:
    needs = "causal_lm"

    def group(self, rows: Rows) -> str:
        return "choice"

    def check(self, rows: Rows) -> None:
        if len(rows.completions) < 2:
            raise DataError(
                f"The task 'choice' needs a data set with at least two fixed completions; this one ({rows.task}) has "
                f"{len(rows.completions)}. Use the task 'generation', or prepare the data with a label column."
            )
        if all(label < 0 for label in rows.columns["label"]):
            raise DataError(
                f"None of the {len(rows):,} held-out rows ends in one of the completions {rows.completions}. Prepare the data anew."
            )

    def ask(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> ClassScores:
        """Rows whose completion is not one of the choices are left to other tasks; the report counts them."""
        rows = rows.take([i for i, label in enumerate(rows.columns["label"]) if label >= 0])
        prompts = prompts_of(subject.model, rows)
        choices = [np.asarray(subject.tokenizer.encode(text, add_special_tokens=False), np.int64) for text in rows.completions]
        likelihoods = choice_log_likelihoods(subject.model, prompts, choices, config.batch_tokens, progress)
        lengths, target = np.array([len(choice) for choice in choices]), np.array(rows.columns["label"])
        scores = likelihoods / lengths if config.length_normalised else likelihoods
        return ClassScores("choice", rows, scores, -likelihoods[np.arange(len(rows)), target], lengths[target])

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        return self.ask(subject, rows, config, progress).table()


def choice_log_likelihoods(
    model: PreTrainedModel, prompts: list[Tokens], choices: list[Tokens], batch_tokens: int, progress: Progress = lambda done: None
) -> NDArray[np.float64]:
    """``[prompts, choices]``: log-likelihood (nats) of each choice after each prompt.

    A model that does not keep branches apart (it refuses a 4-D mask, or carries a state along the row) is noticed on the
    longest prompt and scored in the plain way, one sequence per choice.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise DataError("A held-out row has an empty prompt, so its first token has no probability. Give the template some text.")
    if max(map(len, choices)) > 1 and not _keeps_branches_apart(model, max(prompts, key=len), choices):
        return _plain(model, prompts, choices, batch_tokens, progress)
    return _branched(model, prompts, choices, batch_tokens, progress)


def branched_query(prompt: Tokens, choices: list[Tokens]) -> Query:
    """The prompt with every choice but its last token as a branch."""
    trunk = len(prompt)
    tokens, branch, positions, after = [prompt], [np.zeros(trunk, np.int64)], [np.arange(trunk)], []
    end = trunk
    for number, choice in enumerate(choices, start=1):
        fed = len(choice) - 1
        tokens.append(choice[:-1])
        branch.append(np.full(fed, number))
        positions.append(trunk + np.arange(fed))
        after.append(np.concatenate([[trunk - 1], end + np.arange(fed)]))
        end += fed
    return Query(
        np.concatenate(tokens),
        np.concatenate(after).astype(np.int64),
        np.concatenate(choices),
        None if end == trunk else np.concatenate(branch),
        None if end == trunk else np.concatenate(positions),
    )


def _branched(
    model: PreTrainedModel, prompts: list[Tokens], choices: list[Tokens], batch_tokens: int, progress: Progress
) -> NDArray[np.float64]:
    answers = log_probabilities(model, [branched_query(prompt, choices) for prompt in prompts], batch_tokens, progress)
    starts = np.cumsum([0, *map(len, choices[:-1])])
    return np.array([np.add.reduceat(answer, starts) for answer in answers])


def _plain(
    model: PreTrainedModel, prompts: list[Tokens], choices: list[Tokens], batch_tokens: int, progress: Progress
) -> NDArray[np.float64]:
    columns = []
    for number, choice in enumerate(choices, start=1):
        queries = [continuation(np.concatenate([prompt, choice]), len(prompt)) for prompt in prompts]
        last = number == len(choices)
        answers = log_probabilities(model, queries, batch_tokens, progress if last else lambda done: None)
        columns.append([answer.sum() for answer in answers])
    return np.array(columns).T


def _keeps_branches_apart(model: PreTrainedModel, prompt: Tokens, choices: list[Tokens]) -> bool:
    def nothing(done: int) -> None: ...

    try:
        branched = _branched(model, [prompt], choices, 1, nothing)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return bool(np.abs(branched - _plain(model, [prompt], choices, 1, nothing)).max() < TOLERANCE)
