"""Texts that a decoder writes, many prompts at a time, padded on the left; up to any of its stop tokens, which are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

Tokens = NDArray[np.int64]


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the model's own, and the tokenizer's end of sequence."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    named = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*named, tokenizer.eos_token_id) if token is not None})


def batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices, longest first, in groups whose padded size stays within ``batch_tokens``; a longer sequence goes alone."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + count]
        start += count


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: list[Tokens],
    max_new_tokens: int,
    stop: list[int],
    batch_tokens: int,
    progress: Callable[[int], None] = lambda done: None,
    processors: Callable[[list[int]], LogitsProcessorList] | None = None,
    beams: int = 1,
    keep: int = 1,
    length_penalty: float = 0.0,
) -> list[Tokens]:
    """The ``keep`` best of ``beams`` continuations of each prompt, best first, prompt after prompt; of one beam the likeliest
    token, again and again.

    Sampling options of the model are ignored. ``processors`` of a batch (indices of its prompts) may change the logits first.
    A beam's score is its log-probability divided by (its length to the power of ``length_penalty``).
    """
    pad = stop[0] if stop else 0
    many = {} if beams == 1 else {"num_beams": beams, "num_return_sequences": keep, "length_penalty": length_penalty}
    options = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop or None, pad_token_id=pad, **many)
    answers: list[Tokens] = [np.zeros(0, np.int64)] * (len(prompts) * keep)
    for batch in batches([beams * (len(prompt) + max_new_tokens) for prompt in prompts], batch_tokens):
        length = max(len(prompts[i]) for i in batch)
        tokens = torch.full((len(batch), length), pad)
        mask = torch.zeros_like(tokens)
        for row, index in enumerate(batch):
            tokens[row, length - len(prompts[index]) :] = torch.from_numpy(prompts[index])
            mask[row, length - len(prompts[index]) :] = 1
        chosen = {} if processors is None else {"logits_processor": processors(batch)}
        made = model.generate(tokens.to(model.device), attention_mask=mask.to(model.device), generation_config=options, **chosen)
        for row, text in enumerate(made[:, length:].cpu().numpy()):
            answers[batch[row // keep] * keep + row % keep] = until_stop(text, stop)
        progress(len(batch))
    return answers


def until_stop(tokens: Tokens, stop: list[int]) -> Tokens:
    ends = np.flatnonzero(np.isin(tokens, stop))
    return tokens[: ends[0]] if len(ends) else tokens
