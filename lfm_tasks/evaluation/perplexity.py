"""How surprised is the model by text: every token but the first of a text, or the completion after its prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.answers import TokenLikelihoods
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.generation import prompts_of
from lfm_tasks.evaluation.likelihood import continuation, log_probabilities
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.prepared import Rows


@dataclass(frozen=True)
class Perplexity:
    """``name`` overrides the group: the input *general* is measured as ``general``."""

    name: str | None = None
    needs = "causal_lm"

    def group(self, rows: Rows) -> str:
        return self.name or ("completion" if rows.task == "instruction" else "text")

    def check(self, rows: Rows) -> None:
        if rows.task == "classification":
            raise DataError(
                "The task 'perplexity' needs text or instructions; this data set is of kind 'classification'. Prepare it as text."
            )
        if all(len(ids) < 2 for ids in rows.input_ids):
            raise DataError(f"None of the {len(rows):,} held-out texts has two tokens, so nothing can be predicted. Use longer texts.")

    def ask(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> TokenLikelihoods:
        """A text of one token stays in the table with ``tokens`` 0."""
        if rows.task == "instruction":
            prompts = prompts_of(subject.model, rows)
            completions = [ids[count:] for ids, count in zip(rows.input_ids, rows.columns["prompt_tokens"], strict=True)]
            queries = [continuation(np.concatenate(both), max(1, len(both[0]))) for both in zip(prompts, completions, strict=True)]
        else:
            queries = [continuation(ids, 1) for ids in rows.input_ids]
        answers = log_probabilities(subject.model, queries, config.batch_tokens, progress)
        texts = [subject.tokenizer.decode(query.wanted, skip_special_tokens=True) for query in queries]
        return TokenLikelihoods(self.group(rows), rows, answers, np.array([len(text.encode()) for text in texts]))

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        return self.ask(subject, rows, config, progress).table()
