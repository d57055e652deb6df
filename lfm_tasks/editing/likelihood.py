"""Facts as one batch, and how likely a model finds their targets: the loss of every method that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.facts.locate import encode
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


def fact_batch(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> FactBatch:
    """Raises :class:`DataError` as :func:`encode` does."""
    encoded = [encode(tokenizer, fact, fact.target_new) for fact in facts]
    length = max(len(one.input_ids) for one in encoded)
    input_ids = torch.full((len(facts), length), tokenizer.pad_token_id or 0)
    given, asked = torch.zeros_like(input_ids, dtype=torch.bool), torch.zeros_like(input_ids, dtype=torch.bool)
    for row, one in enumerate(encoded):
        end = len(one.input_ids)
        input_ids[row, :end] = torch.tensor(one.input_ids)
        given[row, :end] = True
        asked[row, one.target_start - 1 : end - 1] = True
    return FactBatch(input_ids, given, asked, torch.tensor([one.target_start - 1 for one in encoded]))


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
    with logits_at(model, batch.asked):
        logits = functional_call(model, dict(weights or {}), kwargs={"input_ids": batch.input_ids, "use_cache": False}).logits[0]
    return mean_by_fact(torch.nn.functional.cross_entropy(logits.float(), batch.wanted, reduction="none"), batch.row, len(batch.last))


def prompt_last_nll(model: PreTrainedModel, batch: FactBatch, weights: Mapping[str, Tensor]) -> Tensor:
    """As :func:`target_nll`, with all target tokens scored at the prompt's last position: what the code of FT-L's authors does. Of a
    target of several tokens it asks that each of them come first."""
    rows = torch.arange(len(batch.last))
    here = torch.zeros_like(batch.asked)
    here[rows, batch.last] = True
    with logits_at(model, here):
        logits = functional_call(model, dict(weights), kwargs={"input_ids": batch.input_ids, "use_cache": False}).logits[0]
    chosen = logits.float().log_softmax(-1)[batch.row, batch.wanted]
    return mean_by_fact(-chosen, batch.row, len(batch.last))


def mean_by_fact(values: Tensor, row: Tensor, facts: int) -> Tensor:
    """[tokens] to [facts]"""
    sums = torch.zeros(facts, dtype=values.dtype).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=facts)
