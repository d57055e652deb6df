"""A loss in slices is the loss in one piece, and no more logits than a slice's ever exist."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from lfm_tasks.models.attention import logits_at
from lfm_tasks.models.heads import chunk_rows, chunked_sum, chunks, has_plain_head, hidden_at

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.fixture
def head():
    torch.manual_seed(0)
    return nn.Linear(6, 11, dtype=torch.float64)


def cross_entropy(targets):
    return lambda logits, rows: nn.functional.cross_entropy(logits, targets[rows], reduction="sum")


@pytest.mark.parametrize("size", [1, 3, 8, 100])
@pytest.mark.parametrize("frozen", [False, True])
def test_value_and_gradients_are_those_of_one_piece(head, size, frozen):
    head.requires_grad_(not frozen)
    hidden = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.arange(8)
    trained = [hidden, *(parameter for parameter in head.parameters() if parameter.requires_grad)]
    whole = cross_entropy(targets)(head(hidden), slice(0, 8))
    parts = chunked_sum(cross_entropy(targets), hidden, head, size)
    for one, other in zip(torch.autograd.grad(3 * whole, trained), torch.autograd.grad(3 * parts, trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert chunked_sum(cross_entropy(targets), hidden, head, size) == pytest.approx(float(whole), rel=1e-12)


def test_no_slice_is_larger_than_asked(head):
    sizes = []
    head.register_forward_hook(lambda _, given, output: sizes.append(len(output)))
    chunked_sum(cross_entropy(torch.arange(8)), torch.randn(8, 6, dtype=torch.float64, requires_grad=True), head, 3).backward()
    assert sizes == [3, 3, 2]
    assert chunk_rows(151_936) * 151_936 <= 2**23 and chunk_rows(2**24) == 1
    assert chunks(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)] and chunks(0, 4) == []


def test_hidden_states_before_the_head_give_its_logits():
    model = LlamaForCausalLM(LlamaConfig(intermediate_size=16, **SMALL)).eval()
    ids, positions = torch.randint(0, 40, (2, 5)), torch.rand(2, 5) > 0.5
    with torch.no_grad():
        with logits_at(model, positions):
            expected = model(input_ids=ids).logits
        with hidden_at(model, positions):
            hidden = model(input_ids=ids).logits
        assert torch.equal(model.get_output_embeddings()(hidden), expected)
        assert model(input_ids=ids).logits.shape == (2, 5, 40)


def test_a_soft_cap_after_the_head_is_noticed():
    assert has_plain_head(LlamaForCausalLM(LlamaConfig(intermediate_size=16, **SMALL)))
    gemma = Gemma2Config(intermediate_size=16, head_dim=8, initializer_range=2.0, final_logit_softcapping=5.0, **SMALL)
    assert not has_plain_head(Gemma2ForCausalLM(gemma))
