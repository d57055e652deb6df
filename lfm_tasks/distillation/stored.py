"""Signals artifacts: what a teacher said of a prepared data set, in parts that are read where they lie.

(What a teacher behind an API said in its answers, of the form ``answers``, is :mod:`lfm_tasks.distillation.across.answered`'s.)

``signals.json`` describes them; ``part-00000.safetensors``, … hold some rows each, place after place: ``ids`` and ``log_p``
``[places, kept]`` (log-probabilities at the temperature 1), ``lse`` ``[places, temperatures]`` such that
``log_p / T - lse`` is the log-probability at T, exactly; of samples also ``log_proposal`` ``[places, samples]`` and
``entropy`` ``[places, temperatures]``. Where every class was kept there are no ``ids``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lfm_tasks.distillation.signals import Sampled, Signal, TopK, Whole
from lfm_tasks.errors import ConfigError, IncompatibleModels, InvalidInput
from lfm_tasks.step import Input
from lfm_tasks.training.batches import Batch
from lfm_tasks.training.split import Split

DESCRIPTION = "signals.json"
FORMAT = 1


def part_name(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def digest_of(split: Split) -> str:
    """SHA-256 over each example's id, tokens and first target: signals of other tokens, or in another order, have another one."""
    hashed = hashlib.sha256()
    for sample_id, tokens, first in zip(split.sample_ids, split.tokens, split.first, strict=True):
        hashed.update(f"{sample_id}\x1f{first}\x1f{len(tokens)}\x1f".encode() + np.ascontiguousarray(tokens, dtype="<i8").tobytes())
    return hashed.hexdigest()


def places(split: Split, *, labels: bool) -> np.ndarray:
    """Where each example's places begin, and after the last one their number: [examples + 1]."""
    counts = np.ones(len(split), dtype=np.int64) if labels else split.lengths - split.first
    return np.concatenate([[0], np.cumsum(counts)])


@dataclass(frozen=True)
class Stored:
    """Signals on local disk."""

    reference: str
    path: Path
    description: dict[str, Any]

    @property
    def form(self) -> str:
        return self.description["form"]

    def check(self, split: Split, tokenizer_sha256: str, labels: list[str], temperature: float) -> None:
        """Raise :class:`IncompatibleModels` unless they are of exactly these rows, and :class:`ConfigError` for a temperature that
        was not stored."""
        if self.description["tokenizer_sha256"] != tokenizer_sha256:
            raise IncompatibleModels(
                f"{self.reference} is of the tokenizer {self.description['tokenizer_sha256'][:12]}…, the data set of "
                f"{tokenizer_sha256[:12]}…. Record the teacher's signals on this data set."
            )
        if self.description["labels"] != labels:
            raise IncompatibleModels(f"{self.reference} is of the classes {self.description['labels']}, the data set has {labels}.")
        if self.description["rows_sha256"] != (found := digest_of(split)):
            raise IncompatibleModels(
                f"{self.reference} was recorded on the rows {self.description['rows_sha256'][:12]}…, these are {found[:12]}…: a teacher's "
                "word on other tokens is no signal. Record it on this data set, with the same objective."
            )
        if temperature not in self.description["temperatures"]:
            known = ", ".join(f"{one:g}" for one in self.description["temperatures"])
            raise ConfigError(
                f"temperature={temperature:g}: {self.reference} is exact at {known}. "
                "Take one of these, or record the signals at this one as well."
            )

    @cached_property
    def _parts(self) -> list[Any]:
        return [safe_open(self.path / part_name(number), framework="pt") for number in range(self.description["parts"])]

    def read(self, name: str, offsets: np.ndarray, example: int) -> Tensor:
        """A tensor's rows of one example."""
        per_part = self.description["rows_per_part"]
        start = offsets[example // per_part * per_part]
        return self._parts[example // per_part].get_slice(name)[int(offsets[example] - start) : int(offsets[example + 1] - start)]


@dataclass(frozen=True)
class Recorded:
    """Signals as the answers to batches of the split that they were recorded on."""

    stored: Stored
    offsets: np.ndarray
    device: torch.device

    def ask(self, batch: Batch, temperature: float) -> Signal:
        column = self.stored.description["temperatures"].index(temperature)
        log_p, lse = self._of(batch, "log_p").float(), self._of(batch, "lse")[:, column, None]
        at_t = log_p / temperature - lse
        if self.stored.form == "whole":
            return Whole(at_t)
        ids = self._of(batch, "ids").long()
        if self.stored.form == "top_k":
            return TopK(ids, at_t)
        weights, exact = at_t.exp(), self.stored.description["top"]
        log_proposal = self._of(batch, "log_proposal")
        weights[:, exact:] = (at_t[:, exact:] - log_proposal).exp() / log_proposal.shape[1]
        return Sampled(ids, weights, self._of(batch, "entropy")[:, column])

    def _of(self, batch: Batch, name: str) -> Tensor:
        return torch.cat([self.stored.read(name, self.offsets, example) for example in batch.examples]).to(self.device)


def open_signals(source: Input) -> Stored:
    path = source.path / DESCRIPTION
    if not path.is_file():
        raise InvalidInput(f"{source.reference} has no {DESCRIPTION}: it is no recorded teacher. Make it by the step 'record_signals'.")
    description = json.loads(path.read_text())
    if "form" not in description:
        raise InvalidInput(
            f"{source.reference} has tokens without the answers that they are of. Run ask_teacher again: what was answered is kept, and "
            "costs nothing."
        )
    return Stored(source.reference, source.path, description)
