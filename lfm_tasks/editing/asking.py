"""What a model says to many prompts in padded passes: one pass answers for tens of them.

Greedy decoding gives exactly the tokens of an answer if and only if each of them is the likeliest after the prompt and those before it.
So whether a model that is left to itself says an answer is seen in one pass, without decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.editing.keys import batches
from lfm_tasks.facts.locate import encode_answer
from lfm_tasks.models.attention import logits_at
from lfm_tasks.models.memories.prompting import rewrite

Pair = tuple[str, str]
"""Prompt and answer."""


@dataclass(frozen=True)
class Said:
    nll: Tensor
    """[pairs]: mean over the answer's tokens, nats."""
    free: Tensor
    """[pairs]: True where the model, left to itself, says the answer."""


def answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> Said:
    """Equal pairs are asked once, with what a memory puts before their prompts.

    Raises :class:`~lfm_tasks.errors.DataError` as :func:`encode_answer`.
    """
    unique = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
    encoded = [encode_answer(tokenizer, rewrite(model, prompt), answer) for prompt, answer in unique]
    lost, hits = token_losses(model, [torch.tensor(ids) for ids, _, _ in encoded], [max(1, start) for _, _, start in encoded])
    back = torch.tensor([unique[pair] for pair in pairs], dtype=torch.long)
    nll = torch.tensor([float(one.mean()) for one in lost])
    return Said(nll[back], torch.tensor([bool(one.all()) for one in hits])[back])


def mean_nll(model: PreTrainedModel, rows: Sequence[Tensor]) -> float:
    """Over all tokens of ``rows`` but the first of each, nats."""
    lost = token_losses(model, rows, [1] * len(rows))[0]
    return float(torch.cat(lost).double().mean())


@torch.no_grad()
def token_losses(model: PreTrainedModel, rows: Sequence[Tensor], starts: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """-log p of each row's tokens from its start (at least 1) on, and whether each is the likeliest; without padding."""
    lost: list[Tensor] = [torch.zeros(0)] * len(rows)
    hits: list[Tensor] = [torch.zeros(0, dtype=torch.bool)] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for chunk in batches(order, [len(row) for row in rows]):
        ids = pad_sequence([rows[place] for place in chunk], batch_first=True).to(model.device)
        column = torch.arange(ids.shape[1])
        first = torch.tensor([starts[place] - 1 for place in chunk])
        last = torch.tensor([len(rows[place]) - 1 for place in chunk])
        asked = ((column >= first[:, None]) & (column < last[:, None])).to(ids.device)
        with logits_at(model, asked):
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
        wanted = ids[:, 1:][asked[:, :-1]]
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").cpu()
        right = (logits.argmax(-1) == wanted).cpu()
        for place, loss, hit in zip(chunk, losses.split((last - first).tolist()), right.split((last - first).tolist()), strict=True):
            lost[place], hits[place] = loss, hit
    return lost, hits
