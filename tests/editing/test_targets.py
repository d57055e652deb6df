"""The search for a fact's value: its loss beside plain passes, its gradient beside differences, its steps beside torch's Adam."""

from __future__ import annotations

import math

import pytest
import torch

from lfm_tasks.editing.methods.config import TargetOptions
from lfm_tasks.editing.targets import Search, fact_rows, find_targets
from lfm_tasks.errors import NonFiniteLoss
from tests.located import FACTS, editing_of, make, opened, same, state

CONTEXTS = ("", "The film won three awards. ")
LAYER = 1


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def directory(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def editing(directory, tmp_path):
    return editing_of(directory, tmp_path / "work", opened(directory, torch.float64))


def modules(editing, kind):
    layer = editing.decoder.layers[LAYER]
    site = editing.decoder.site(LAYER).module
    return {"layer": [layer], "mlp": [site], "both": [editing.decoder.attention(LAYER), site]}[kind]


def search(editing, kind="mlp", facts=FACTS, **options) -> Search:
    return Search(editing, fact_rows(editing, facts, CONTEXTS), LAYER, tuple(modules(editing, kind)), TargetOptions(**options))


def losses(one: Search, shift: torch.Tensor) -> torch.Tensor:
    every = torch.arange(len(shift))
    rows, kept = one.rows.of(every)
    return one.losses(rows, kept, every, shift)[0]


def test_without_a_shift_the_loss_is_the_targets_cross_entropy(editing):
    tokenizer, expected = editing.tokenizer, []
    for fact in FACTS:
        nll = []
        for context in CONTEXTS:
            prompt, whole = (tokenizer(context + fact.text + end)["input_ids"] for end in ("", f" {fact.target_new}"))
            log_p = editing.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            nll.append(-torch.stack([log_p[place - 1, whole[place]] for place in range(len(prompt), len(whole))]).mean())
        expected.append(torch.stack(nll).mean())
    for kind in ("layer", "mlp", "both"):
        one = search(editing, kind)
        found = losses(one, torch.zeros_like(one.clean))
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["layer", "mlp", "both"])
def test_the_gradient_is_that_of_differences(editing, kind):
    """Of the whole loss, the divergence and the decay among it, and of each fact by its own shift alone."""
    if editing.model.config.model_type == "llama":
        pytest.skip("transformers' RMSNorm computes in float32 whatever it is given")
    one = search(editing, kind, kl=0.7, decay=0.3)
    generator = torch.Generator().manual_seed(1)
    at = 0.3 * torch.randn(one.clean.shape, generator=generator, dtype=torch.float64)
    shift = at.clone().requires_grad_()
    gradient = torch.autograd.grad(losses(one, shift).sum(), shift)[0]
    for _ in range(6):
        way = torch.randn(at.shape, generator=generator, dtype=torch.float64)
        up, down = (losses(one, at + sign * 1e-5 * way) for sign in (1, -1))
        torch.testing.assert_close((up - down) / 2e-5, (gradient * way).sum((1, 2)), atol=1e-6, rtol=1e-5)


def test_the_steps_are_those_of_adam_and_of_a_clamp(editing):
    one = search(editing, learning_rate=0.2, steps=9, clamp=0.8, enough=0)
    found = one.run(FACTS)
    shift = torch.zeros_like(one.clean).requires_grad_()
    adam = torch.optim.Adam([shift], lr=0.2)
    for _ in range(9):
        adam.zero_grad()
        losses(one, shift).sum().backward()
        adam.step()
        with torch.no_grad():
            shift *= (0.8 * one.clean.norm(dim=-1) / shift.norm(dim=-1)).clamp(max=1)[..., None]
    torch.testing.assert_close(found.shift, shift[:, -1].detach(), atol=1e-9, rtol=1e-7)
    assert (found.shift.norm(dim=1) <= 0.8 * found.clean.norm(dim=1) * (1 + 1e-12)).all()
    assert found.steps.tolist() == [9, 9, 9]


@pytest.mark.parametrize("like", [math.inf, 1.0])
def test_facts_that_share_a_batch_share_nothing_else(editing, monkeypatch, like):
    """Each leaves the batch when it is done; whatever the batches, what is found stands in the facts' order."""
    monkeypatch.setattr("lfm_tasks.editing.targets.LIKE", like)
    plain = {"learning_rate": 0.1, "decay": 0, "kl": 0, "clamp": 5}
    half = find_targets(editing, FACTS, CONTEXTS, LAYER, modules(editing, "layer"), TargetOptions(steps=6, enough=0, **plain))
    options = TargetOptions(steps=12, enough=float(half.nll.median()), **plain)
    together = find_targets(editing, FACTS, CONTEXTS, LAYER, modules(editing, "layer"), options)
    assert len(set(together.steps.tolist())) > 1
    for place, fact in enumerate(FACTS):
        alone = find_targets(editing, [fact], CONTEXTS, LAYER, modules(editing, "layer"), options)
        assert alone.steps[0] == together.steps[place]
        torch.testing.assert_close(alone.value[0], together.value[place], atol=1e-8, rtol=1e-8)


def test_a_fact_that_is_known_needs_no_step(editing):
    found = find_targets(editing, FACTS, CONTEXTS, LAYER, modules(editing, "mlp"), TargetOptions(enough=10))
    assert found.steps.tolist() == [0, 0, 0] and not found.shift.any()


def test_a_loss_that_is_not_finite_names_the_facts(directory, tmp_path):
    editing = editing_of(directory, tmp_path / "work")
    before = state(editing.model)
    with pytest.raises(NonFiniteLoss, match="fox.*not finite in step 1"):
        with torch.no_grad():
            editing.model.get_output_embeddings().weight.fill_(float("nan"))
        find_targets(editing, FACTS, CONTEXTS, LAYER, modules(editing, "mlp"), TargetOptions())
    editing.model.load_state_dict(before)
    assert same(editing.model, before)
