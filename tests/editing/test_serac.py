"""SERAC with trained parts: who computes which row, and that what is in no scope is the base's to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing.likelihood import fact_batch
from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.installing import forget, installed
from lfm_tasks.models.memories.prompting import embed, rewrite
from lfm_tasks.models.memories.serac import scope_logits
from tests.editing_toys import FACTS, PROBE, editing, logits, remembered, same, snapshot, toy
from tests.hyper_toys import SCHOOL, SERAC, lesson, trained


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def memory(decoder, tmp_path_factory) -> Memory:
    given = editing(*decoder, tmp_path_factory.mktemp("work"))
    editor = trained(given, "serac_editor", tmp_path_factory.mktemp("editor"), **SERAC)
    return remembered("serac_trained", replace(given, editor=editor), FACTS)


def told(one) -> str:
    return f"{one.text} {one.target_new}. "


def by_hand(model, tokenizer, memory, text) -> torch.Tensor:
    """Of the base with the counterfactual change in its weights."""
    kept = {}
    for at, layer in enumerate(memory.tensors["counterfactual.layers"].tolist()):
        site = Decoder(model).site(layer)
        kept[site.module] = site.module.weight.detach().clone()
        left, right = (memory.tensors[f"counterfactual.{at}.{name}"] for name in ("left", "right"))
        site.module.weight += left @ right.T
    found = logits(model, tokenizer, text)
    for module, weight in kept.items():
        module.weight.copy_(weight)
    return found


def test_both_parts_learn_what_is_held_out(decoder, tmp_path):
    given, options = lesson(editing(*decoder, tmp_path), "serac_editor", **SERAC)
    looks = METHODS["serac_editor"].function(given, options).trained
    assert looks.best.parts["edit_loss"] < looks.looks[0].parts["edit_loss"] - 0.5
    assert looks.best.parts["scope_loss"] < 0.7 * looks.looks[0].parts["scope_loss"] and looks.best.parts["scope_error"] < 0.2


def test_a_prompt_out_of_every_scope_is_the_bases_to_the_bit(decoder, memory):
    model, tokenizer = decoder
    base = logits(model, tokenizer, PROBE)
    with installed(model, memory, tokenizer):
        assert rewrite(model, PROBE) == PROBE and torch.equal(logits(model, tokenizer, PROBE), base)
        rows = [tokenizer(text)["input_ids"] for text in (PROBE, told(FACTS[0]) + FACTS[0].text)]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mixed = model(ids).logits[0]
    assert torch.equal(mixed, model(ids).logits[0]), "a row of a fact beside it changes nothing"


def test_a_prompt_in_scope_is_told_the_fact_and_answered_by_the_counterfactual_model(decoder, memory):
    model, tokenizer = decoder
    with installed(model, memory, tokenizer):
        asked = rewrite(model, FACTS[0].text)
        assert asked == told(FACTS[0]) + FACTS[0].text
        found, unrouted = logits(model, tokenizer, asked), logits(model, tokenizer, FACTS[0].text)
    torch.testing.assert_close(found, by_hand(model, tokenizer, memory, asked), atol=1e-4, rtol=1e-4)
    assert (found - logits(model, tokenizer, asked)).abs().max() > 0.1
    assert torch.equal(unrouted, logits(model, tokenizer, FACTS[0].text)), "the scope is decided by who asks, by the prompt alone"


def test_the_fact_stands_before_the_prompt_as_one_text(decoder, memory):
    """Others lost or doubled the space before a target, so that what was trained and what was asked had other tokens."""
    model, tokenizer = decoder
    with installed(model, memory, tokenizer):
        asked = rewrite(model, FACTS[1].text)
    batch = fact_batch(tokenizer, [FACTS[1]])
    assert "  " not in asked and tokenizer(asked)["input_ids"][: batch.given.sum()] == batch.input_ids[0].tolist()


def test_the_scope_is_its_formula(decoder, memory):
    model, tokenizer = decoder
    tensors = memory.tensors
    mine = embed(model, tokenizer, [FACTS[2].text], int(tensors["layer"]), tensors["centre"])
    odds = scope_logits(*(tensors[f"scope.{name}"] for name in ("project", "scale", "bias")), mine, tensors["embeddings"])
    apart = [(tensors["scope.project"] @ (mine[0] - one)).square().sum() for one in tensors["embeddings"]]
    torch.testing.assert_close(odds[0], tensors["scope.bias"] - tensors["scope.scale"] * torch.stack(apart), atol=1e-4, rtol=1e-4)
    assert odds[0].argmax() == 2


def test_of_no_facts_the_memory_is_the_base(decoder, memory):
    model, tokenizer = decoder
    empty = memory
    for fact in FACTS:
        empty = forget(empty, fact.id)
    with installed(model, empty, tokenizer):
        assert rewrite(model, FACTS[0].text) == FACTS[0].text
        found = logits(model, tokenizer, told(FACTS[0]) + FACTS[0].text)
    assert torch.equal(found, logits(model, tokenizer, told(FACTS[0]) + FACTS[0].text))


def test_rows_of_a_generation_keep_their_models_with_and_without_a_cache(decoder, memory):
    """Side by side and padded on the left; in the second pass a cache is all that tells of how a row began."""
    model, tokenizer = decoder
    with installed(model, memory, tokenizer):
        texts = [PROBE, rewrite(model, FACTS[0].text), rewrite(model, FACTS[3].text)]
        rows = [tokenizer(text)["input_ids"] for text in texts]
        alone = [made(model, [row], use_cache)[0] for row in rows for use_cache in (True, False)]
        together = made(model, rows, True)
    assert alone[0::2] == alone[1::2] == together
    assert alone[0] == made(model, [rows[0]], True)[0] and alone[2] != made(model, [rows[1]], True)[0]


def made(model, rows, use_cache) -> list[list[int]]:
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=use_cache, pad_token_id=0)
    return [one[length:].tolist() for one in out]


def test_a_cache_that_was_begun_elsewhere_is_refused(decoder, memory):
    model, tokenizer = decoder
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    past = model(ids, use_cache=True).past_key_values
    with installed(model, memory, tokenizer):
        own = model(ids, use_cache=True).past_key_values
        assert model(ids[:, -1:], past_key_values=own).logits.isfinite().all()
        with pytest.raises(IncompatibleModels, match="The cache was not begun by this model with this memory in its way"):
            model(ids[:, -1:], past_key_values=past)


def test_the_model_is_as_before_once_the_memory_is_out(decoder, memory):
    model, tokenizer = decoder
    before = snapshot(model)
    with installed(model, memory, tokenizer):
        rewrite(model, FACTS[0].text)
    assert same(before, snapshot(model))


def test_later_rounds_need_no_editor(decoder, memory, tmp_path):
    given = editing(*decoder, tmp_path, memory.tensors)
    more = remembered("serac_trained", given, SCHOOL[:1])
    assert len(more.tensors["embeddings"]) == len(FACTS) + 1
    assert torch.equal(more.tensors["scope.project"], memory.tensors["scope.project"])
