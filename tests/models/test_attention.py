"""Packing and partial logits change no value: against one forward pass a sequence."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from lfm_tasks.models import attention
from lfm_tasks.models.attention import PADDING, can_segment, logits_at, packed_mask, segmented, segments

LENGTHS = (5, 9, 3, 7)


def toy(name: str):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    models = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.2)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=4, initializer_range=0.2)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)),
    }
    return models[name]().eval()


def sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (length,), generator=generator) for length in LENGTHS]


def positions(parts) -> torch.Tensor:
    return torch.cat([torch.arange(len(part)) for part in parts])[None]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_masked_row_gives_each_sequence_the_logits_it_has_alone(name):
    model, parts = toy(name), sequences()
    row = torch.cat([*parts, torch.zeros(4, dtype=torch.long)])[None]
    number = torch.cat([torch.full((len(part),), index) for index, part in enumerate(parts)] + [torch.full((4,), PADDING)])[None]
    place = torch.cat([positions(parts), torch.arange(4)[None]], dim=1)
    with torch.inference_mode():
        packed = model(input_ids=row, attention_mask=packed_mask(number), position_ids=place).logits[0]
        alone = torch.cat([model(input_ids=part[None]).logits[0] for part in parts])
    assert torch.isfinite(packed).all()
    torch.testing.assert_close(packed[: len(alone)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("block", [128, 4, 3])
def test_a_segmented_row_gives_each_sequence_the_logits_and_gradients_it_has_alone(name, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    model, parts = toy(name), sequences()
    assert can_segment(model)
    with segmented(model), segments(LENGTHS):
        packed = model(input_ids=torch.cat(parts)[None], position_ids=positions(parts)).logits[0]
        packed.square().sum().backward()
    gradients = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    alone = torch.cat([model(input_ids=part[None]).logits[0] for part in parts])
    alone.square().sum().backward()
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("block", [128, 4])
def test_rows_padded_on_the_right_need_no_mask(name, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    model, parts = toy(name), sequences()
    rows = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    with torch.inference_mode(), segmented(model):
        padded = model(input_ids=rows).logits
    for row, part in zip(padded, parts, strict=True):
        with torch.inference_mode():
            torch.testing.assert_close(row[: len(part)], model(input_ids=part[None]).logits[0], atol=1e-5, rtol=1e-5)


def test_a_model_that_computes_attention_its_own_way_is_not_segmented():
    model = toy("llama")
    model.set_attn_implementation("eager")
    assert not can_segment(model)


def test_segmented_leaves_the_model_as_it_was():
    model = toy("llama")
    before = model.config._attn_implementation
    with segmented(model):
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_branches_continue_the_trunk_and_do_not_see_one_another(name):
    model = toy(name)
    trunk, first, second = sequences()[:3]
    row = torch.cat([trunk, first, second])[None]
    branch = torch.cat([torch.full((len(part),), index) for index, part in enumerate((trunk, first, second))])[None]
    place = torch.cat([torch.arange(len(trunk)), len(trunk) + torch.arange(len(first)), len(trunk) + torch.arange(len(second))])[None]
    with torch.inference_mode():
        packed = model(input_ids=row, attention_mask=packed_mask(torch.zeros_like(row), branch), position_ids=place).logits[0]
        one = model(input_ids=torch.cat([trunk, first])[None]).logits[0]
        two = model(input_ids=torch.cat([trunk, second])[None]).logits[0, len(trunk) :]
    torch.testing.assert_close(packed, torch.cat([one, two]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_logits_at_are_the_full_logits_there(name):
    model = toy(name)
    generator = torch.Generator().manual_seed(2)
    ids, chosen = torch.randint(0, 50, (3, 8), generator=generator), torch.rand(3, 8, generator=generator) < 0.4
    with torch.inference_mode():
        full = model(input_ids=ids).logits
        with logits_at(model, chosen):
            some = model(input_ids=ids).logits
        again = model(input_ids=ids).logits
    assert some.shape == (1, int(chosen.sum()), 50)
    torch.testing.assert_close(some[0], full[chosen], atol=1e-6, rtol=1e-6)
    assert torch.equal(again, full)
