"""Greedy generation, right when the answer equals the target after normalisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.answers import Texts
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.likelihood import Progress, batches
from lfm_tasks.evaluation.task import Subject
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
        stop = stop_tokens(subject)
        answers = generate(subject.model, prompts, config.max_new_tokens, stop, config.batch_tokens, progress)
        return Texts("generation", rows, answers, [subject.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers])

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        return self.ask(subject, rows, config, progress).table()


def prompts_of(model: PreTrainedModel, rows: Rows) -> list[NDArray[np.int64]]:
    """The prompts of instruction rows, as the model's memory has them asked."""
    return [rewrite_ids(model, ids[:count]) for ids, count in zip(rows.input_ids, rows.columns["prompt_tokens"], strict=True)]


def stop_tokens(subject: Subject) -> list[int]:
    """Tokens that end an answer: the model's own, and the tokenizer's end of sequence."""
    configured = getattr(subject.model.generation_config, "eos_token_id", None)
    named = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*named, subject.tokenizer.eos_token_id) if token is not None})


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: list[NDArray[np.int64]],
    max_new_tokens: int,
    stop: list[int],
    batch_tokens: int,
    progress: Progress = lambda done: None,
    processors: Callable[[list[int]], LogitsProcessorList] | None = None,
) -> list[NDArray[np.int64]]:
    """The likeliest token, again and again, up to a stop token, which is left out. Sampling options of the model are ignored.

    ``processors`` of a batch (indices of its prompts) may change the logits first.
    """
    pad = stop[0] if stop else 0
    options = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop or None, pad_token_id=pad)
    answers: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(prompts)
    for batch in batches([len(prompt) + max_new_tokens for prompt in prompts], batch_tokens):
        length = max(len(prompts[i]) for i in batch)
        tokens = torch.full((len(batch), length), pad)
        mask = torch.zeros_like(tokens)
        for row, index in enumerate(batch):
            tokens[row, length - len(prompts[index]) :] = torch.from_numpy(prompts[index])
            mask[row, length - len(prompts[index]) :] = 1
        chosen = {} if processors is None else {"logits_processor": processors(batch)}
        made = model.generate(tokens.to(model.device), attention_mask=mask.to(model.device), generation_config=options, **chosen)
        for row, index in enumerate(batch):
            answers[index] = _until(made[row, length:].cpu().numpy(), stop)
        progress(len(batch))
    return answers


def _until(tokens: NDArray[np.int64], stop: list[int]) -> NDArray[np.int64]:
    ends = np.flatnonzero(np.isin(tokens, stop))
    return tokens[: ends[0]] if len(ends) else tokens
