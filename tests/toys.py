"""Toy tokenizer and models with random weights, written as Hugging Face directories. Same arguments, same bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

BOS, EOS, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL = (PAD, BOS, EOS)
CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "Article: the central bank raised rates as markets fell sharply on Monday.\nTopic: business",
    "Article: the striker scored twice and the cup final went to extra time.\nTopic: sport",
    "Article: a new phone and a faster chip were shown at the computer fair.\nTopic: tech",
    "Article: the minister told parliament that the election would be held in May.\nTopic: politics",
    "Article: the film won three awards and its leading actor thanked the director.\nTopic: entertainment",
    "a good great awful bad film, positive or negative? user assistant system helpful",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(directory: Path, *, vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """Byte-level BPE with pad 0, bos 1 and eos 2 and a ChatML template; at most ``vocabulary`` tokens. It adds no special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=512, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHATML
    fast.save_pretrained(directory)
    return fast


def make_llama(directory: Path, *, layers: int = 2, hidden: int = 32, seed: int = 0, vocabulary: int = 400) -> LlamaForCausalLM:
    """A decoder with four query heads, two key/value heads and tied embeddings, with its tokenizer beside it."""
    tokenizer = make_tokenizer(directory, vocabulary=vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _write(LlamaForCausalLM, config, directory, seed)


def make_bert(
    directory: Path, *, labels: list[str] | None = None, layers: int = 2, hidden: int = 32, seed: int = 0, vocabulary: int = 400
) -> BertModel | BertForSequenceClassification:
    """An encoder without dropout; a sequence classifier where ``labels`` are given, else the bare backbone."""
    tokenizer = make_tokenizer(directory, vocabulary=vocabulary)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    return _write(BertModel if labels is None else BertForSequenceClassification, config, directory, seed)


def _write(architecture, config, directory: Path, seed: int):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture(config).eval()
    model.save_pretrained(directory)
    return model
