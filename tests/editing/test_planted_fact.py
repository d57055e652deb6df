"""A decoder whose facts were put into one layer by hand: column s of its matrix is the object of subject s, and nothing else speaks.

So it is known where a fact is, which keys there are (one unit vector for each word), and what an edit of one fact must be: a new column.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lfm_tasks.editing.method import Editing
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.statistics import Statistics, write_statistics
from tests.located import edit, state, with_edit
from tests.tuned import Context

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Cuba": "Havana", "Peru": "Lima"}
WORDS = ["<pad>", "<unk>", "is", "a", *CAPITALS, *CAPITALS.values()]
WIDTH, PLANTED = 16, 1
FACT = Fact("france", "France", "{}", "Rome", "Paris")


def planted() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=WIDTH,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.model.embed_tokens.weight.copy_(torch.eye(WIDTH))
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.gate_proj.weight.copy_(torch.eye(WIDTH))
        layer.mlp.up_proj.weight.copy_(torch.eye(WIDTH))
        layer.mlp.down_proj.weight.zero_()
    for country, city in CAPITALS.items():
        model.model.layers[PLANTED].mlp.down_proj.weight[WORDS.index(city), WORDS.index(country)] = 0.5
    return model


@pytest.fixture
def editing(tmp_path) -> Editing:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=64)
    model = planted()
    return Editing(model, fast, Decoder(model), 0, Context(tmp_path / "work"), moments(tmp_path / "moments", [1.0] * WIDTH))


def moments(directory: Path, diagonal: list[float]) -> Statistics:
    name = f"model.layers.{PLANTED}.mlp.down_proj.weight"
    described = {name: {"stored_as": name, "input_axis": 1, "tokens": 1000, "layer": PLANTED}}
    tensors = {name: 1000 * torch.diag(torch.tensor(diagonal, dtype=torch.float64))}
    write_statistics(directory, tensors, {"kind": "key_moments", "model": "m" * 64, "tensors": described})
    return Statistics("moments", directory, json.loads((directory / "statistics.json").read_text()))


def says(editing: Editing, word: str) -> str:
    return WORDS[int(editing.model(torch.tensor([[WORDS.index(word)]])).logits[0, -1].argmax())]


@pytest.mark.parametrize("name", ["rome", "memit", "emmet", "alphaedit"])
def test_an_edit_where_the_fact_is_changes_that_fact_alone(editing, tmp_path, name):
    assert {country: says(editing, country) for country in CAPITALS} == CAPITALS
    before, column = state(editing.model), WORDS.index("France")
    where = {"layer": PLANTED} if name == "rome" else {"layers": [PLANTED]}
    if name == "alphaedit":
        known = [0.0 if place == column else 1.0 for place in range(WIDTH)]
        editing = replace(editing, statistics=moments(tmp_path / "known", known))
        where |= {"energy": 1e-6}
    made = edit(name, editing, [FACT], prefixes=0, **where)
    assert made.facts[0]["nll"] < 0.5
    with_edit(editing, made)
    assert {country: says(editing, country) for country in CAPITALS} == CAPITALS | {"France": "Rome"}
    difference = editing.decoder.site(PLANTED).matrix - before[editing.decoder.site(PLANTED).name]
    others = [place for place in range(WIDTH) if place != column]
    assert float(difference[:, others].norm()) < 1e-5 * float(difference[:, column].norm())


def test_many_facts_are_written_at_once_and_the_rest_stays(editing):
    facts = [Fact(country, country, "{}", city) for country, city in (("France", "Rome"), ("Italy", "Tokyo"), ("Peru", "Havana"))]
    with_edit(editing, edit("memit", editing, facts, prefixes=0, layers=[PLANTED]))
    expected = CAPITALS | {"France": "Rome", "Italy": "Tokyo", "Peru": "Havana"}
    assert {country: says(editing, country) for country in CAPITALS} == expected


def test_an_edit_elsewhere_can_write_it_too_but_does_not_take_the_old_one_away(editing):
    """Identity for C: the layer above has no statistics here. The planted column is as it was."""
    with_edit(editing, edit("memit", editing, [FACT], prefixes=0, layers=[2], covariance="identity"))
    assert says(editing, "France") == "Rome"
    assert float(editing.decoder.site(PLANTED).matrix[WORDS.index("Paris"), WORDS.index("France")]) == 0.5
