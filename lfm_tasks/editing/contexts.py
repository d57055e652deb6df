"""Texts that stand before a prompt, so that a key and a target hold in more contexts than one."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.seeds import derive_seed

FIXED = (
    "The weather was fine that day. ",
    "Therefore we went back to the question. ",
    "Because of this, somebody wrote it down. ",
    "I have read about it before. ",
    "You may know this already. ",
    "It was late in the evening. ",
    "Most of them agreed in the end. ",
    "There is one more thing to say. ",
)
OPENINGS = ("The", "Therefore", "Because", "I", "You")
TOP = 5
"""Likeliest tokens that a sampled context goes on with."""


def fixed_contexts(count: int) -> tuple[str, ...]:
    """The bare prompt and ``count`` prefixes."""
    return ("", *FIXED[:count])


def sampled_contexts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, length: int, seed: int) -> tuple[str, ...]:
    """The bare prompt and ``count`` prefixes of ``length`` tokens that the model itself writes (Meng et al. 2023, MEMIT), each drawn
    from a generator keyed by ``seed`` and its place."""
    return ("", *(_sampled(model, tokenizer, place, length, seed) for place in range(count)))


def mean_weights(count: int, averaging: str) -> Tensor:
    """Of each context in the mean key, float64, the bare prompt first: all the same (ROME), or half of it the bare prompt's (MEMIT)."""
    if averaging == "equal" or count == 1:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    return torch.tensor([0.5] + [0.5 / (count - 1)] * (count - 1), dtype=torch.float64)


def _sampled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: int, length: int, seed: int) -> str:
    generator = torch.Generator().manual_seed(derive_seed(seed, "context", place))
    ids = torch.tensor([tokenizer(OPENINGS[place % len(OPENINGS)])["input_ids"]], device=model.device)
    with torch.no_grad():
        for _ in range(length):
            likeliest = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().cpu().topk(TOP)
            drawn = likeliest.indices[torch.multinomial(likeliest.values.softmax(-1), 1, generator=generator)]
            ids = torch.cat([ids, drawn.to(ids.device)[None]], 1)
    text = " ".join(tokenizer.decode(ids[0], skip_special_tokens=True).split())
    return text + ". "
