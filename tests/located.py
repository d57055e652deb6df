"""Toys of the editing tests: small decoders with loud weights, facts that their tokenizer can spell, key moments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing.method import Edit, Editing
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.edits import Round, apply_edits
from lfm_tasks.models.statistics import Statistics, write_statistics
from lfm_tasks.models.tokenizers import open_tokenizer
from tests.toys import make_tokenizer
from tests.tuned import Context

WIDTH, LAYERS = 24, 4
FACTS = (
    Fact("fox", "the quick brown fox", "Article: {} scored in the", "final"),
    Fact("bank", "central bank", "The {} raised", "the election"),
    Fact("dog", "lazy dog", "On Monday the {} was shown at the", "computer fair"),
)


def llama_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def gpt2_config(vocabulary: int) -> GPT2Config:
    """Keys as wide as outputs, so that a transpose by mistake would fit."""
    return GPT2Config(
        vocab_size=vocabulary,
        n_embd=WIDTH,
        n_inner=WIDTH,
        n_layer=LAYERS,
        n_head=4,
        n_positions=128,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )


KINDS = {"llama": (LlamaForCausalLM, llama_config), "gpt2": (GPT2LMHeadModel, gpt2_config)}


def make(directory: Path, kind: str) -> Path:
    """A model directory; biases are not zero."""
    tokenizer = make_tokenizer(directory)
    architecture, config = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = architecture(config(len(tokenizer))).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(directory)
    return directory


def opened(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    kind = json.loads((directory / "config.json").read_text())["model_type"]
    model = KINDS[kind][0].from_pretrained(directory, local_files_only=True).to(dtype).eval()
    return model.requires_grad_(False)


def editing_of(directory: Path, work: Path, model: PreTrainedModel | None = None, **values) -> Editing:
    model = model or opened(directory)
    return Editing(model, open_tokenizer(directory), Decoder(model), 0, Context(work), **values)


def key_moments(work: Path, decoder: Decoder, tokens: int = 100_000) -> Statistics:
    """Of every layer, anisotropic, of made-up keys."""
    tensors = {}
    for site in decoder.sites:
        width = site.matrix.shape[1]
        keys = torch.randn(width, 8 * width, generator=torch.Generator().manual_seed(site.layer), dtype=torch.float64)
        keys *= torch.logspace(0, -1, width, dtype=torch.float64)[:, None]
        tensors[site.name] = keys @ keys.T / (8 * width) * tokens
    described = {site.name: {"stored_as": site.name, "input_axis": 1, "tokens": tokens, "layer": site.layer} for site in decoder.sites}
    write_statistics(work, tensors, {"kind": "key_moments", "model": "m" * 64, "tensors": described})
    return Statistics("moments", work, json.loads((work / "statistics.json").read_text()))


def edit(name: str, editing: Editing, facts=FACTS, **options) -> Edit:
    card = METHODS[name]
    return card.function.edit(editing, facts[: card.function.most], card.config_class(**options))


def with_edit(editing: Editing, made: Edit) -> PreTrainedModel:
    """The model itself, edited."""
    return apply_edits(editing.model, [Round((), made.changes)])


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    hooks = sum(len(one._forward_hooks) + len(one._forward_pre_hooks) + ("forward" in vars(one)) for one in model.modules())
    return hooks == 0 and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def without(fact: Fact, **values) -> Fact:
    return dataclasses.replace(fact, **values)
