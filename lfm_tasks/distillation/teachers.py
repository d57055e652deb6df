"""Teachers, handed to a method as what it declared that it needs of them, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from lfm_tasks.distillation.divergences import log_probabilities
from lfm_tasks.distillation.sampling import Continuing
from lfm_tasks.distillation.signals import Signal, Whole
from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.attention import can_segment, logits_at, segmented
from lfm_tasks.models.heads import chunk_rows, chunks, has_plain_head, hidden_at
from lfm_tasks.models.opening import check_vocabulary, is_classifier, model_directory, open_causal_lm, open_classifier, read_config
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.registry import Access
from lfm_tasks.step import Input
from lfm_tasks.training.batches import Batch


class LogitTeacher:
    """A teacher that can be asked for its logits, and for nothing else."""

    def __init__(self, model: PreTrainedModel, columns: Sequence[int] | None, vocabulary: int) -> None:
        """``columns``: of a classifier, those of the data set's classes; of a decoder the first ``vocabulary`` are its tokens."""
        self._model = model.eval().requires_grad_(False)
        self._columns = torch.tensor(columns, device=model.device) if columns is not None else None
        self._vocabulary = vocabulary
        self._plain = columns is None and has_plain_head(model)

    @property
    def width(self) -> int:
        """Classes of its answers."""
        return len(self._columns) if self._columns is not None else self._vocabulary

    @property
    def packs(self) -> bool:
        return can_segment(self._model)

    def modes(self) -> AbstractContextManager[None]:
        """Entered while batches with packed rows are asked about."""
        return segmented(self._model) if self.packs and self._columns is None else nullcontext()

    def ask(self, batch: Batch, temperature: float) -> Said:
        """What it says where the batch has targets."""
        with torch.no_grad():
            if batch.positions is None:
                return Said(self, self._model(**batch.inputs).logits[:, self._columns], temperature)
            with (hidden_at if self._plain else logits_at)(self._model, batch.positions):
                return Said(self, self._model(**batch.inputs, use_cache=False).logits[0], temperature)

    def continuing(self, lengths: Sequence[int]) -> Continuing:
        """Its logits of the next token of prompts of these ``lengths``, and of what is added to them."""
        return Continuing(self._model, lengths, self._vocabulary)

    def logits(self, found: Tensor) -> Tensor:
        """[n, classes] of what a pass gave at n places."""
        with torch.no_grad():
            logits = self._model.get_output_embeddings()(found) if self._plain else found
        return logits if self._columns is not None else logits[..., : self._vocabulary]


class OpenTeacher(LogitTeacher):
    """A teacher whose activations may be looked at, too."""

    @property
    def model(self) -> PreTrainedModel:
        return self._model


class Said:
    """What a pass of a teacher gave; its log-probabilities are made a slice at a time."""

    def __init__(self, teacher: LogitTeacher, found: Tensor, temperature: float) -> None:
        self._teacher, self._found, self._temperature = teacher, found, temperature

    def __getitem__(self, rows: slice) -> Signal:
        return Whole(log_probabilities(self._teacher.logits(self._found[rows]), self._temperature))

    def at(self, temperature: float) -> Said:
        return Said(self._teacher, self._found, temperature)

    def places(self, chosen: NDArray[np.int64]) -> Tensor:
        """Log-probabilities [n, classes] at the targets ``chosen``."""
        found = self._found[torch.from_numpy(chosen).to(self._found.device)]
        return log_probabilities(self._teacher.logits(found), self._temperature)

    def log_target(self, targets: Tensor) -> Tensor:
        """[n] of all targets, a slice of the logits at a time."""
        size = chunk_rows(self._teacher.width)
        parts = [self[rows].log_target(targets[rows]) for rows in chunks(len(targets), size)]
        return torch.cat(parts) if parts else torch.zeros(0, device=targets.device)


def grant(model: PreTrainedModel, access: Iterable[Access], columns: Sequence[int] | None, vocabulary: int) -> LogitTeacher:
    """The teacher as an object that offers what ``access`` says: a method cannot ask for what its card does not declare."""
    return (OpenTeacher if "activations" in access else LogitTeacher)(model, columns, vocabulary)


def open_teacher(
    source: Input, description: dict[str, Any], labels: list[str], access: Iterable[Access], device: torch.device
) -> LogitTeacher:
    """The teacher for a prepared data set (its ``dataset.json``). Its weights are never changed.

    Raises :class:`IncompatibleModels` where it has another tokenizer, or lacks a class of the data set; it may have more.
    """
    if labels:
        model, columns = open_classifier(source), class_columns(source, labels)
    else:
        model, columns = open_causal_lm(source), None
    digest = tokenizer_digest(model_directory(source))
    if digest != description["tokenizer_sha256"]:
        raise IncompatibleModels(
            f"The teacher {source.reference} has the tokenizer {digest[:12]}…, the data set was prepared with "
            f"{description['tokenizer_sha256'][:12]}…: its logits are of other tokens. Take a teacher with the student's tokenizer."
        )
    check_vocabulary(model, digest, description)
    return grant(model.to(device), access, columns, description["vocabulary"])


def class_columns(source: Input, labels: list[str]) -> list[int]:
    """The teacher's column of each class, by name: it may have them in another order, and others beside them."""
    config = read_config(model_directory(source))
    known = [config.id2label[index] for index in range(config.num_labels)] if is_classifier(config) else list(config.id2label.values())
    if missing := [label for label in labels if label not in known]:
        raise IncompatibleModels(
            f"The teacher {source.reference} tells {', '.join(known)} apart, and not {', '.join(missing)}. "
            "Take a teacher that was tuned on the data set's classes."
        )
    return [known.index(label) for label in labels]
