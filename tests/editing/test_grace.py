"""GRACE: the codebook's cases written out, any edit taken out, and answers that depend on nothing but the token."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.editing.likelihood import fact_batch, target_nll
from lfm_tasks.errors import ConfigError
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.grace import Codebook, look_up, read, replay, respond
from lfm_tasks.models.memories.installing import forget, installed
from lfm_tasks.models.memories.installing import remembered as held
from tests.editing_toys import FACTS, PROBE, editing, fact, logits, remembered, toy

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module", params=("llama", "gpt2"))
def decoder(request, tmp_path_factory):
    return toy(tmp_path_factory.mktemp(request.param), request.param)


def line(*places: float) -> torch.Tensor:
    return torch.tensor([[place, 0.0] for place in places])


def codebook(places, labels, radius: float = 1.0) -> Codebook:
    return replay(line(*places), labels, torch.full((len(places),), radius))


def test_a_far_key_is_new():
    made = codebook([0, 2.5], "ab")
    assert made.radii.tolist() == [1, 1] and made.entry == [0, 1]
    assert codebook([0, 2.5], "aa").entry == [0, 1], "farther than both radii, whatever its label"


def test_a_near_key_of_the_same_label_widens_the_old_one():
    made = codebook([0, 1.5], "aa")
    assert made.entry == [0, 0] and made.radii[0] == pytest.approx(1.5, rel=1e-4)
    assert look_up(made, line(1.5))[1].all()
    assert codebook([0, 0.5], "aa").radii.tolist() == [1]


def test_a_near_key_of_another_label_splits_the_way_between():
    made = codebook([0, 1.5], "ab")
    assert made.entry == [0, 1] and made.radii.tolist() == pytest.approx([0.75, 0.75], rel=1e-4) and made.radii[0] < 0.75
    entry, inside = look_up(made, line(0.7, 0.8))
    assert entry.tolist() == [0, 1] and inside.all()


def test_a_split_never_widens_what_an_earlier_split_narrowed():
    """EasyEdit sets the old radius to half the distance, though it may be smaller already."""
    made = codebook([0, 0.4, -1.1], "abc")
    assert made.radii[0] == pytest.approx(0.2, rel=1e-4)


def test_a_key_edited_again_to_another_target_is_the_later_one():
    made = codebook([0, 0], "ab")
    entry, inside = look_up(made, line(0, 0.9))
    assert inside.all() and entry.tolist() == [1, 1] and made.entry == [0, 1]
    assert codebook([0, 0, 0.5], "aba").entry == [0, 1, 2], "the key that is out of use takes nothing any more"


def test_the_label_that_is_compared_is_that_of_the_nearest_key():
    """EasyEdit puts keys at the end and labels at the front, so that the third edit meets the label of another key."""
    assert codebook([0, 10, 20, 0.5], "abca").entry == [0, 1, 2, 0]
    assert codebook([0, 10, 20, 0.5], "abcc").entry == [0, 1, 2, 3]


def test_labels_of_the_same_mean_are_not_the_same_label():
    assert codebook([0, 0.5], ["ac", "bb"]).entry == [0, 1]


def test_far_tokens_have_the_base_outputs_bits_and_a_key_has_its_value():
    made, values = codebook([0, 5], "ab"), torch.tensor([[7.0, 8.0], [9.0, 1.0]])
    x, output = torch.randn(6, 3, 2, generator=GENERATOR) * 0.1 + 50, torch.randn(6, 3, 2, generator=GENERATOR)
    assert torch.equal(respond(made, values, x, output), output)
    assert torch.equal(respond(made, values, line(5, 0), output[0, :2]), values[[1, 0]])


def test_rows_are_routed_alike_alone_and_in_a_batch():
    keys = torch.randn(9, 16, generator=GENERATOR)
    made, values = replay(keys, "abcdefghi", torch.full((9,), 4.0)), torch.randn(9, 3, generator=GENERATOR)
    x = torch.cat([keys, keys]).add(0.2) + torch.randn(18, 16, generator=GENERATOR) * torch.tensor([0.1, 3.0]).repeat(9)[:, None]
    output = torch.randn(18, 3, generator=GENERATOR)
    together = respond(made, values, x, output)
    assert torch.equal(together, torch.cat([respond(made, values, x[i : i + 1], output[i : i + 1]) for i in range(18)]))
    hits = look_up(made, x)[1]
    assert hits.any() and not hits.all()


def test_edits_are_learnt_and_other_prompts_keep_their_bits(decoder, tmp_path):
    model, tokenizer = decoder
    before = [logits(model, tokenizer, text) for text in (PROBE, *(one.text for one in FACTS))]
    memory = remembered("grace", editing(model, tokenizer, tmp_path), steps=60, radius=0.01)
    with installed(model, memory, tokenizer):
        assert torch.equal(logits(model, tokenizer, PROBE), before[0])
        for one, old in zip(FACTS, before[1:], strict=True):
            wanted = tokenizer(f" {one.target_new}")["input_ids"][0]
            new = logits(model, tokenizer, one.text)
            assert new[0, -1].argmax() == wanted and torch.equal(new[0, :-1], old[0, :-1])
    assert torch.equal(logits(model, tokenizer, FACTS[0].text), before[1])


def test_the_key_of_each_edit_is_its_own_prompts_last_token(decoder, tmp_path):
    """EasyEdit freezes the place to the length of the first edit's prompt."""
    model, tokenizer = decoder
    facts = (fact("a dog", "sport"), fact("the leading actor of the film", "tech"))
    memory = remembered("grace", editing(model, tokenizer, tmp_path), facts)
    site, seen = Decoder(model).site(int(memory.tensors["layer"])), []
    with site.module.register_forward_hook(lambda module, given, output: seen.append(given[0][0, -1])):
        for one in facts:
            logits(model, tokenizer, one.text)
    torch.testing.assert_close(memory.tensors["queries"], torch.stack(seen), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_any_edit_can_be_taken_out(decoder, tmp_path, gone):
    """First, middle, last. EasyEdit finds but the last, for it nests its list of edits."""
    model, tokenizer = decoder
    memory = remembered("grace", editing(model, tokenizer, tmp_path), steps=40, radius=0.01)
    base = logits(model, tokenizer, FACTS[gone].text)
    left = forget(memory, FACTS[gone].id)
    assert held(left) == [one.id for one in FACTS if one is not FACTS[gone]]
    with installed(model, memory, tokenizer):
        whole = [logits(model, tokenizer, one.text) for one in FACTS]
    with installed(model, left, tokenizer):
        for place, one in enumerate(FACTS):
            assert torch.equal(logits(model, tokenizer, one.text), base if place == gone else whole[place])
    with pytest.raises(ConfigError, match=rf"Unknown fact '{FACTS[gone].id}'"):
        forget(left, FACTS[gone].id)


def test_taking_an_edit_out_gives_the_radii_as_if_it_had_never_been():
    places, labels = [0, 1.5, 0.4, 9], "abaa"
    for gone in range(4):
        kept = [place for place in range(4) if place != gone]
        first = torch.ones(4)
        made = replay(line(*places)[kept], [labels[place] for place in kept], first[kept])
        again = codebook([places[place] for place in kept], [labels[place] for place in kept])
        assert torch.equal(made.radii, again.radii) and made.entry == again.entry


def test_rounds_go_on_from_one_another(decoder, tmp_path):
    model, tokenizer = decoder
    first = remembered("grace", editing(model, tokenizer, tmp_path), FACTS[:2], radius=0.01)
    second = remembered("grace", editing(model, tokenizer, tmp_path, first.tensors), FACTS[2:], radius=0.01)
    assert held(second) == [one.id for one in FACTS]
    assert torch.equal(second.tensors["values"][:2], first.tensors["values"])
    whole = forget(forget(second, FACTS[2].id), FACTS[3].id)
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_facts_that_share_a_key_share_a_value(decoder, tmp_path):
    model, tokenizer = decoder
    facts = (fact("a dog", "sport"), fact("a dog", "sport"), fact("a dog", "tech"))
    memory = remembered("grace", editing(model, tokenizer, tmp_path), facts, steps=40, start="cold")
    made, values = read(memory.tensors)
    assert made.entry == [0, 0, 1] and torch.equal(memory.tensors["values"][0], memory.tensors["values"][1])
    assert torch.equal(values, memory.tensors["values"][[1, 2]])
    batch = fact_batch(tokenizer, facts)
    with torch.no_grad(), installed(model, memory, tokenizer):
        after = target_nll(model, batch)
    with torch.no_grad():
        assert after[2] < target_nll(model, batch)[2] - 0.3, "the value of the key is the later edit's"
