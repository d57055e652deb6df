"""Methods of editing where the model is on an accelerator: what they make is put there, what they keep is on the host."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.editing.likelihood import fact_batch, target_nll
from lfm_tasks.models.memories.installing import KINDS, installed
from lfm_tasks.models.memories.prompting import rewrite
from tests.devices import HOST, THERE, Mixed, accelerated
from tests.editing_toys import FACTS, edit, editing, logits, remembered, toy
from tests.hyper_toys import SCHOOL, SERAC, lesson, with_editor

WRITTEN = [card.name for card in methods_of("edit") if not card.function.memory and card.needs != "key_moments"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("llama"))


def test_the_pretence_tells_the_two_apart(decoder):
    model, tokenizer = decoder
    with accelerated(model):
        batch = fact_batch(tokenizer, FACTS)
        assert model.device == THERE and torch.zeros(2).device == HOST == torch.zeros(2, device=THERE).cpu().device
        with pytest.raises(Mixed, match="embedding"):
            target_nll(model, batch)
        assert target_nll(model, batch.to(model.device)).device == THERE


@pytest.mark.parametrize("name", WRITTEN)
def test_a_change_is_found_there_and_kept_on_the_host(decoder, tmp_path, name):
    given = with_editor(name, editing(*decoder, tmp_path))
    with accelerated(decoder[0]):
        first = edit(name, given, FACTS[:2])
        for one in (first, edit(name, editing(*decoder, tmp_path, first.state) if first.state else given, FACTS[2:])):
            assert all(tensor.device == HOST for change in one.changes for tensor in (change.left, change.right))
            assert all(tensor.device == HOST for tensor in (*one.state.values(), *one.cache.values()))


@pytest.mark.parametrize("name", KINDS)
def test_a_memory_is_made_there_kept_on_the_host_and_follows_the_model(decoder, tmp_path, name):
    model, tokenizer = decoder
    given = with_editor(name, editing(model, tokenizer, tmp_path))
    options = {"steps": 2, "demonstrations": 1}
    plain = remembered(name, given, FACTS[:2], **options)
    text = FACTS[0].text
    with installed(model, plain, tokenizer):
        expected = logits(model, tokenizer, rewrite(model, text))
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with accelerated(model):
        memory = remembered(name, given, FACTS[:2], **options)
        memory = remembered(name, editing(model, tokenizer, tmp_path, memory.tensors), FACTS[2:], **options)
        assert all(tensor.device == HOST for tensor in memory.tensors.values())
        with installed(model, plain, tokenizer):
            told = torch.tensor([tokenizer(rewrite(model, text))["input_ids"]], device=model.device)
            found = model(told).logits
            assert found.device == THERE and model(ids.to(model.device)).logits.device == THERE
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["mend_editor", "malmen_editor", "serac_editor"])
def test_an_editor_is_trained_there_and_kept_on_the_host(decoder, tmp_path, name):
    with accelerated(decoder[0]):
        values = SERAC if name == "serac_editor" else {}
        given, options = lesson(editing(*decoder, tmp_path), name, SCHOOL, **{**values, "steps": 2, "every": 1})
        made = METHODS[name].function(given, options)
        assert all(tensor.device == HOST for tensor in made.tensors.values()) and len(made.trained.looks) == 3
