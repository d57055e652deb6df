"""Greedy generation, right when the answer equals the target after normalisation: the whole text, or what stands behind a mark in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedModel

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.answers import Texts
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.generating import generate, stop_tokens
from lfm_tasks.models.memories.prompting import rewrite_ids
from lfm_tasks.models.prepared import Rows


class Generation:
    needs = "causal_lm"

    def group(self, rows: Rows) -> str:
        return "generation"

    def check(self, rows: Rows) -> None:
        if rows.task != "instruction":
            raise DataError(
                f"The task 'generation' needs prompts with completions; this data set is of kind '{rows.task}'. Prepare it as instruction."
            )

    def ask(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> Texts:
        prompts = prompts_of(subject.model, rows)
        stop = stop_tokens(subject.model, subject.tokenizer)
        answers = generate(subject.model, prompts, config.max_new_tokens, stop, config.batch_tokens, progress)
        texts = [subject.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return Texts("generation", rows, answers, texts, tuple(config.answer_marks))

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        return self.ask(subject, rows, config, progress).table()


def prompts_of(model: PreTrainedModel, rows: Rows) -> list[NDArray[np.int64]]:
    """The prompts of instruction rows, as the model's memory has them asked."""
    return [rewrite_ids(model, ids[:count]) for ids, count in zip(rows.input_ids, rows.columns["prompt_tokens"], strict=True)]
