"""Sequence classification: the class with the highest logit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.answers import ClassScores
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.likelihood import Progress
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.generating import batches
from lfm_tasks.models.prepared import Rows


class Classification:
    needs = "classifier"

    def group(self, rows: Rows) -> str:
        return "classification"

    def check(self, rows: Rows) -> None:
        if rows.task != "classification":
            raise DataError(
                f"The task 'classification' needs a data set of labelled text; this one is of kind '{rows.task}'. "
                "Prepare it as classification."
            )

    def ask(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> ClassScores:
        return ClassScores.of_logits(rows, class_logits(subject.model, rows.input_ids, config.batch_tokens, progress))

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        return self.ask(subject, rows, config, progress).table()


@torch.inference_mode()
def class_logits(
    model: PreTrainedModel, input_ids: list[NDArray[np.int64]], batch_tokens: int, progress: Progress = lambda done: None
) -> NDArray[np.float64]:
    """``[samples, classes]``; texts of like length share a batch, and padding is masked."""
    found = np.zeros((len(input_ids), model.config.num_labels))
    for batch in batches([len(ids) for ids in input_ids], batch_tokens):
        length = max(len(input_ids[i]) for i in batch)
        tokens = torch.full((len(batch), length), model.config.pad_token_id or 0)
        mask = torch.zeros_like(tokens)
        for row, index in enumerate(batch):
            tokens[row, : len(input_ids[index])] = torch.from_numpy(input_ids[index])
            mask[row, : len(input_ids[index])] = 1
        logits = model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device)).logits
        found[batch] = logits.double().cpu().numpy()
        progress(len(batch))
    return found
