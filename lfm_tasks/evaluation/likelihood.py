"""Log-probabilities of given tokens under a causal language model, many sequences at a time, in one forward pass each.

Sequences of like length share a batch, padded on the right: under causal attention nothing sees the padding, so no mask is
needed. Logits are computed only at positions that are asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from lfm_tasks.models.attention import PADDING, logits_at, packed_mask
from lfm_tasks.models.generating import batches

LOGITS_AT_ONCE = 256
Progress = Callable[[int], None]
Reading = Callable[[Tensor, Tensor], Tensor]
"""What is kept of the logits ``[asked, vocabulary]`` and the wanted tokens ``[asked]``."""


@dataclass(frozen=True)
class Query:
    """One sequence, and what is asked about it: the log-probability of token ``wanted[k]`` after position ``after[k]``.

    ``branch`` (0: trunk) and ``positions`` are set where the sequence ends in alternatives that do not see one another.
    """

    tokens: NDArray[np.int64]
    after: NDArray[np.int64]
    wanted: NDArray[np.int64]
    branch: NDArray[np.int64] | None = None
    positions: NDArray[np.int64] | None = None


def continuation(tokens: NDArray[np.int64], start: int) -> Query:
    """Ask for every token from index ``start`` (at least 1) on."""
    return Query(tokens[:-1], np.arange(start - 1, len(tokens) - 1), tokens[start:])


def log_probabilities(
    model: PreTrainedModel, queries: list[Query], batch_tokens: int, progress: Progress = lambda done: None
) -> list[NDArray[np.float64]]:
    """The log-probabilities (nats) that each query asks for. ``progress`` is told how many queries were answered at once."""
    return _in_batches(model, queries, batch_tokens, progress, _log_probability)


def log_probabilities_and_likeliest(
    model: PreTrainedModel, queries: list[Query], batch_tokens: int, progress: Progress = lambda done: None
) -> list[NDArray[np.float64]]:
    """As :func:`log_probabilities`, beside the token that the model finds likeliest there: ``[asked, 2]``."""
    return _in_batches(model, queries, batch_tokens, progress, _log_probability_and_likeliest)


def _in_batches(
    model: PreTrainedModel, queries: list[Query], batch_tokens: int, progress: Progress, read: Reading
) -> list[NDArray[np.float64]]:
    answers: list[NDArray[np.float64]] = [np.zeros(0)] * len(queries)
    asking = [index for index, query in enumerate(queries) if len(query.wanted)]
    progress(len(queries) - len(asking))
    for batch in batches([len(queries[index].tokens) for index in asking], batch_tokens):
        chosen = [asking[i] for i in batch]
        for index, answer in zip(chosen, _answer(model, [queries[i] for i in chosen], read), strict=True):
            answers[index] = answer
        progress(len(batch))
    return answers


def _log_probability(logits: Tensor, wanted: Tensor) -> Tensor:
    return -cross_entropy(logits, wanted, reduction="none")


def _log_probability_and_likeliest(logits: Tensor, wanted: Tensor) -> Tensor:
    """Token ids are exact in float64 only, so both are."""
    return torch.stack([_log_probability(logits, wanted).double(), logits.argmax(-1).double()], dim=-1)


@torch.inference_mode()
def _answer(model: PreTrainedModel, queries: list[Query], read: Reading) -> list[NDArray[np.float64]]:
    device, length = model.device, max(len(query.tokens) for query in queries)
    asked = torch.zeros(len(queries), length, dtype=torch.bool)
    for row, query in enumerate(queries):
        asked[row, query.after] = True
    row_of_position = torch.cumsum(asked.flatten(), 0).view_as(asked) - 1
    picked = torch.cat([row_of_position[row, query.after] for row, query in enumerate(queries)]).to(device)
    wanted = torch.cat([torch.as_tensor(query.wanted) for query in queries]).to(device)
    tokens = _padded([query.tokens for query in queries], length, 0).to(device)
    with logits_at(model, asked.to(device)):
        logits = model(input_ids=tokens, use_cache=False, **_branches(queries, length, device)).logits[0]
    answer = torch.cat([read(logits[p].float(), w) for p, w in _chunks(picked, wanted)])
    return list(np.split(answer.double().cpu().numpy(), np.cumsum([len(query.wanted) for query in queries])[:-1]))


def _branches(queries: list[Query], length: int, device: torch.device) -> dict[str, Tensor]:
    """Mask and positions, where any query has branches; plain causal attention needs neither."""
    if all(query.branch is None for query in queries):
        return {}
    plain = [np.arange(len(query.tokens)) for query in queries]
    sequence = _padded([np.zeros(len(query.tokens), np.int64) for query in queries], length, PADDING)
    branch = _padded([np.zeros_like(p) if q.branch is None else q.branch for q, p in zip(queries, plain, strict=True)], length, 0)
    positions = _padded([p if q.positions is None else q.positions for q, p in zip(queries, plain, strict=True)], length, 0)
    return {"attention_mask": packed_mask(sequence.to(device), branch.to(device)), "position_ids": positions.to(device)}


def _padded(rows: list[NDArray[np.int64]], length: int, fill: int) -> Tensor:
    out = np.full((len(rows), length), fill, dtype=np.int64)
    for row, values in enumerate(rows):
        out[row, : len(values)] = values
    return torch.from_numpy(out)


def _chunks(picked: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(picked.split(LOGITS_AT_ONCE), wanted.split(LOGITS_AT_ONCE), strict=True)
