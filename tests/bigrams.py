"""A decoder whose next-word probabilities are written down by hand: each word's follow from that word alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

UNKNOWN, END = "<unk>", "</s>"
NEVER = 1e-9
Table = Mapping[str, Mapping[str, float]]


def make_bigram(directory: Path, words: list[str], table: Table) -> LlamaForCausalLM:
    """``table[word][next]`` are probabilities; what they leave goes to ``</s>``. A word without a line is followed by ``</s>``.

    One layer that adds nothing: embeddings are unit vectors, the head holds the logarithms.
    """
    vocabulary = {word: place for place, word in enumerate([UNKNOWN, END, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, eos_token=END, pad_token=END, model_max_length=64, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(directory)
    size = len(vocabulary)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size + size % 2,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        rms_norm_eps=1e-12,
        bos_token_id=None,
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[END],
    )
    model = LlamaForCausalLM(config).eval()
    probabilities = torch.full((size, size), NEVER, dtype=torch.float64)
    for word, place in vocabulary.items():
        for following, share in table.get(word, {}).items():
            probabilities[place, vocabulary[following]] = share
        probabilities[place, vocabulary[END]] = max(NEVER, 1 - sum(table.get(word, {}).values()))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.ones_like(weight) if "norm" in name else torch.zeros_like(weight))
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        model.lm_head.weight[:, :size] = (probabilities / probabilities.sum(-1, keepdim=True)).log().T.float() / config.hidden_size**0.5
    model.save_pretrained(directory)
    return model
