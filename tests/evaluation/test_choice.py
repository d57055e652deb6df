"""Many choices in one pass give what one pass per choice gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from lfm_tasks.errors import DataError
from lfm_tasks.evaluation import choice as choice_module
from lfm_tasks.evaluation.choice import choice_log_likelihoods
from tests.toys import make_llama

GENERATOR = np.random.default_rng(0)
PROMPTS = [GENERATOR.integers(3, 250, size=length) for length in (1, 5, 31, 8, 8, 19)]
CHOICES = [np.array(tokens) for tokens in ([7], [9, 11, 12], [9, 13], [40, 41, 42, 43, 44])]
SINGLE = [np.array([token]) for token in (7, 9, 40)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
    return make_llama(tmp_path_factory.mktemp("llama"))


def naive(model: torch.nn.Module, prompts: list[np.ndarray], choices: list[np.ndarray]) -> np.ndarray:
    """One forward pass per prompt and choice, all logits."""
    found = np.zeros((len(prompts), len(choices)))
    for i, prompt in enumerate(prompts):
        for j, choice in enumerate(choices):
            tokens = torch.tensor(np.concatenate([prompt, choice]))[None]
            with torch.inference_mode():
                logged = model(tokens).logits[0].double().log_softmax(-1)
            found[i, j] = sum(logged[len(prompt) + k - 1, token].item() for k, token in enumerate(choice))
    return found


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
@pytest.mark.parametrize("choices", [CHOICES, SINGLE], ids=["several tokens", "one token"])
def test_all_choices_in_one_pass_equal_one_pass_per_choice(llama, choices, batch_tokens: int):
    found = choice_log_likelihoods(llama, PROMPTS, choices, batch_tokens)
    assert found == pytest.approx(naive(llama, PROMPTS, choices), abs=1e-4)


def test_choices_of_several_tokens_take_one_pass_per_batch(llama, monkeypatch):
    passes = []
    monkeypatch.setattr(choice_module, "_keeps_branches_apart", lambda *_: True)
    handle = llama.register_forward_pre_hook(lambda module, arguments, named: passes.append(named["input_ids"].shape), with_kwargs=True)
    choice_log_likelihoods(llama, PROMPTS, CHOICES, 4096)
    handle.remove()
    fed = sum(len(choice) - 1 for choice in CHOICES)
    assert passes == [(len(PROMPTS), max(map(len, PROMPTS)) + fed)]


def test_learned_positions_continue_from_the_prompt():
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0, embd_pdrop=0)).eval()
    assert choice_log_likelihoods(gpt2, PROMPTS, CHOICES, 100) == pytest.approx(naive(gpt2, PROMPTS, CHOICES), abs=1e-4)


class RefusesMasks(torch.nn.Module):
    """A decoder behind an interface that takes no 4-D mask."""

    def __init__(self, inner: torch.nn.Module, error: Exception | None) -> None:
        super().__init__()
        self.inner, self.error, self.device = inner, error, inner.device

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.inner.get_output_embeddings()

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
        if attention_mask is not None and attention_mask.ndim == 4:
            if self.error is not None:
                raise self.error
            attention_mask = None
        return self.inner(input_ids, attention_mask=attention_mask)


@pytest.mark.parametrize("error", [ValueError("4-D masks are not supported"), None], ids=["refused aloud", "ignored in silence"])
def test_a_model_that_takes_no_4d_mask_is_scored_in_the_plain_way(llama, error):
    found = choice_log_likelihoods(RefusesMasks(llama, error), PROMPTS, CHOICES, 200)
    assert found == pytest.approx(naive(llama, PROMPTS, CHOICES), abs=1e-4)


def test_eager_attention_keeps_branches_apart_too(tmp_path: Path, llama):
    eager = make_llama(tmp_path)
    eager.set_attn_implementation("eager")
    assert choice_log_likelihoods(eager, PROMPTS, CHOICES, 4096) == pytest.approx(naive(llama, PROMPTS, CHOICES), abs=1e-4)


def test_an_empty_prompt_is_refused(llama):
    with pytest.raises(DataError, match="empty prompt.*template"):
        choice_log_likelihoods(llama, [np.zeros(0, np.int64)], CHOICES, 100)
