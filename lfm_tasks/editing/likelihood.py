"""Facts as one batch, and how likely a model finds their targets: the loss of every method that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.facts.locate import encode, encode_answer
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.attention import logits_at


@dataclass(frozen=True)
class FactBatch:
    """Prompts with their targets, padded on the right. Under causal attention nothing sees the padding, so there is no mask."""

    input_ids: Tensor
    """[facts, length]"""
    given: Tensor
    """[facts, length], True for what is no padding."""
    asked: Tensor
    """[facts, length], True where the next token is one of the target's."""
    last: Tensor
    """[facts]: the prompt's last token."""

    @property
    def wanted(self) -> Tensor:
        """The targets' tokens in row-major order."""
        return self.input_ids[:, 1:][self.asked[:, :-1]]

    @property
    def row(self) -> Tensor:
        """The fact that each of ``wanted`` belongs to."""
        return self.asked.nonzero()[:, 0]

    def to(self, device: torch.device) -> FactBatch:
        return FactBatch(*(getattr(self, one.name).to(device) for one in fields(self)))


def fact_batch(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> FactBatch:
    """Raises :class:`DataError` as :func:`encode` does."""
    encoded = [encode(tokenizer, fact, fact.target_new) for fact in facts]
    return row_batch([(one.input_ids, one.target_start) for one in encoded], tokenizer.pad_token_id or 0)


def pair_batch(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> FactBatch:
    """Of any prompts and their answers. Raises :class:`DataError` as :func:`encode_answer` does."""
    encoded = [encode_answer(tokenizer, prompt, answer) for prompt, answer in pairs]
    return row_batch([(ids, max(1, start)) for ids, _, start in encoded], tokenizer.pad_token_id or 0)


def row_batch(rows: Sequence[tuple[Sequence[int], int]], pad: int) -> FactBatch:
    """Of token ids, and the place of the first one that is asked for, at least 1."""
    input_ids = torch.full((len(rows), max(len(ids) for ids, _ in rows)), pad)
    given, asked = torch.zeros_like(input_ids, dtype=torch.bool), torch.zeros_like(input_ids, dtype=torch.bool)
    for row, (ids, start) in enumerate(rows):
        end = len(ids)
        input_ids[row, :end] = torch.tensor(ids)
        given[row, :end] = True
        asked[row, start - 1 : end - 1] = True
    return FactBatch(input_ids, given, asked, torch.tensor([start - 1 for _, start in rows]))


def prompt_batch(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and what is no padding, both [prompts, length], padded on the right."""
    rows = [torch.tensor(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id or 0)
    given = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return ids, given


def target_nll(model: PreTrainedModel, batch: FactBatch, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    """Mean -log p of each fact's target tokens, given the prompt and the target before: [facts], nats.

    With ``weights`` in the place of the model's own of these names; differentiable by them.
    """
    logits = asked_logits(model, batch, weights)
    return mean_by_fact(torch.nn.functional.cross_entropy(logits, batch.wanted, reduction="none"), batch.row, len(batch.last))


def asked_logits(model: PreTrainedModel, batch: FactBatch, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    """[asked, vocabulary] in row-major order, float32 at the least."""
    return _logits(model, batch, batch.asked, weights or {})


def prompt_last_nll(model: PreTrainedModel, batch: FactBatch, weights: Mapping[str, Tensor]) -> Tensor:
    """As :func:`target_nll`, with all target tokens scored at the prompt's last position: what the code of FT-L's authors does. Of a
    target of several tokens it asks that each of them come first."""
    rows = torch.arange(len(batch.last), device=batch.last.device)
    here = torch.zeros_like(batch.asked)
    here[rows, batch.last] = True
    chosen = _logits(model, batch, here, weights).log_softmax(-1)[batch.row, batch.wanted]
    return mean_by_fact(-chosen, batch.row, len(batch.last))


def mean_by_fact(values: Tensor, row: Tensor, facts: int) -> Tensor:
    """[tokens] to [facts]"""
    sums = values.new_zeros(facts).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=facts)


def _logits(model: PreTrainedModel, batch: FactBatch, here: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    with logits_at(model, here):
        logits = functional_call(model, dict(weights), kwargs={"input_ids": batch.input_ids, "use_cache": False}).logits[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
