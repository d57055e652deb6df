"""A model as a function of a batch: what methods that look at data need to know of it, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lfm_tasks.models.prepared import Rows
from lfm_tasks.seeds import derive_seed

Batch = Mapping[str, Tensor]
"""``input_ids`` and ``attention_mask`` [batch, length], ``target`` [batch]: the class, or the first token of the answer; -1 without."""
Forward = Callable[[nn.Module, Batch], Tensor]
"""Logits [batch, classes]."""


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Class logits of a classifier; of a decoder the next-token logits after the last token of each row."""
    return class_logits(model(**_asked(batch)).logits, batch)


def forward_with(model: nn.Module, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """:func:`forward` of the model with ``tensors`` in the place of its own of these names; differentiable by them."""
    return class_logits(functional_call(model, dict(tensors), kwargs=_asked(batch)).logits, batch)


def class_logits(logits: Tensor, batch: Batch) -> Tensor:
    """[batch, classes] as they are; of [batch, length, vocabulary] those after the last token of each row."""
    if logits.dim() == 2:
        return logits
    last = batch["attention_mask"].sum(1) - 1
    return logits[torch.arange(len(last)), last]


def batches(rows: Rows, batch_size: int, pad_token_id: int, most: int = 0) -> Iterator[dict[str, Tensor]]:
    """The first ``most`` rows in their order, once; 0: all."""
    places = range(min(most or len(rows), len(rows)))
    for start in range(0, len(places), batch_size):
        yield make_batch(rows, places[start : start + batch_size], pad_token_id)


def make_batch(rows: Rows, places: Sequence[int], pad_token_id: int) -> dict[str, Tensor]:
    """The rows at ``places``, padded on the right. Of an instruction row only the prompt is given."""
    tokens = padded([_question(rows, place) for place in places], pad_token_id)
    return tokens | {"target": torch.tensor([_target(rows, place) for place in places])}


def padded(ids: Sequence[np.ndarray], pad_token_id: int) -> dict[str, Tensor]:
    tokens = torch.full((len(ids), max(len(one) for one in ids)), pad_token_id)
    mask = torch.zeros_like(tokens)
    for row, one in enumerate(ids):
        tokens[row, : len(one)], mask[row, : len(one)] = torch.from_numpy(one), 1
    return {"input_ids": tokens, "attention_mask": mask}


def unpadded(rows: Rows, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Every row whole, answers included, once: batches of rows of one length, so that no module ever sees padding."""
    lengths: dict[int, list[np.ndarray]] = {}
    for one in rows.input_ids:
        lengths.setdefault(len(one), []).append(one)
    for _, equal in sorted(lengths.items()):
        for start in range(0, len(equal), batch_size):
            yield padded(equal[start : start + batch_size], 0)


def stream(rows: Rows, batch_size: int, pad_token_id: int, seed: int, name: str) -> Iterator[dict[str, Tensor]]:
    """Batches without end: every pass over the rows in an order of its own, keyed by ``seed`` and ``name``."""
    epoch = 0
    while True:
        order = np.random.default_rng(derive_seed(seed, f"{name}/{epoch}")).permutation(len(rows))
        for start in range(0, len(rows), batch_size):
            yield make_batch(rows, order[start : start + batch_size].tolist(), pad_token_id)
        epoch += 1


def _asked(batch: Batch) -> dict[str, Tensor]:
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def _question(rows: Rows, place: int) -> np.ndarray:
    ids = rows.input_ids[place]
    return ids[: rows.columns["prompt_tokens"][place]] if rows.task == "instruction" else ids


def _target(rows: Rows, place: int) -> int:
    if rows.task == "instruction":
        return int(rows.input_ids[place][rows.columns["prompt_tokens"][place]])
    return int(rows.columns["label"][place]) if rows.task == "classification" else -1
