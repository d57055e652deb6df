"""FT-M, FT-L, the LoRA edit and UltraEdit against their formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from lfm_tasks.editing.gradients import Moments, gradient_factors
from lfm_tasks.editing.likelihood import fact_batch, prompt_last_nll, target_nll
from lfm_tasks.editing.tuned.config import FtlConfig
from lfm_tasks.editing.tuned.finetune import ball
from lfm_tasks.editing.tuned.ultraedit import solved, value_shifts
from lfm_tasks.errors import AttemptKilled, NonFiniteLoss
from lfm_tasks.facts.locate import encode
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.edits import Round, apply_edits
from tests.editing_toys import FACTS, TRAINING, edit, editing, fact, same, snapshot, toy

KINDS = ("llama", "gpt2")


@pytest.fixture(scope="module", params=KINDS)
def decoder(request, tmp_path_factory):
    return toy(tmp_path_factory.mktemp(request.param), request.param)


def nll_one_by_one(model, tokenizer, facts) -> torch.Tensor:
    out = []
    for one in facts:
        encoded = encode(tokenizer, one, one.target_new)
        scores = model(torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
        places = range(encoded.target_start, len(encoded.input_ids))
        out.append(-torch.stack([scores[place - 1, encoded.input_ids[place]] for place in places]).mean())
    return torch.stack(out)


def test_the_loss_of_a_padded_batch_is_that_of_each_fact_alone(decoder):
    model, tokenizer = decoder
    batch = fact_batch(tokenizer, FACTS)
    torch.testing.assert_close(target_nll(model, batch), nll_one_by_one(model, tokenizer, FACTS), atol=1e-4, rtol=1e-5)


def test_scoring_at_the_prompts_last_place_is_an_option_that_asks_every_token_to_come_first(decoder):
    model, tokenizer = decoder
    batch, encoded = fact_batch(tokenizer, FACTS), [encode(tokenizer, one, one.target_new) for one in FACTS]
    scores = [model(torch.tensor([one.prompt_ids])).logits[0, -1].log_softmax(-1) for one in encoded]
    expected = torch.stack([-each[list(one.target_ids)].mean() for each, one in zip(scores, encoded, strict=True)])
    torch.testing.assert_close(prompt_last_nll(model, batch, {}), expected, atol=1e-4, rtol=1e-5)
    assert FtlConfig().scoring == "each"
    assert max(len(one.target_ids) for one in encoded) > 1


@pytest.mark.parametrize("name", ["ft_m", "ft_l"])
def test_fine_tuning_is_projected_adam_on_one_matrix(decoder, name, tmp_path):
    model, tokenizer = decoder
    options = {"layer": 1, "steps": 4, "learning_rate": 0.01, "ball": 0.02, "enough": 0}
    (change,) = edit(name, editing(model, tokenizer, tmp_path), **options).changes
    site, batch = Decoder(model).site(1), fact_batch(tokenizer, FACTS)
    w0 = site.module.weight.detach().clone()
    radius = ball(site, FtlConfig(ball=0.02)) if name == "ft_l" else torch.inf
    w, first, second = w0.clone(), torch.zeros_like(w0), torch.zeros_like(w0)
    for step in range(1, 5):
        weight = w.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(target_nll(model, batch, {site.name: weight}).mean(), weight)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        w = w - 0.01 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        w = w0 + (w - w0).clamp(-radius, radius)
    torch.testing.assert_close(change.stored, w - w0, atol=2e-4, rtol=1e-3)
    if name == "ft_l":
        assert change.stored.abs().max() == pytest.approx(radius) and (change.stored.abs() > 0.9 * radius).float().mean() > 0.3


def test_the_factors_are_the_change_and_make_the_edited_model(decoder, tmp_path):
    model, tokenizer = decoder
    made = edit("ft_m", editing(model, tokenizer, tmp_path), steps=5, learning_rate=0.01)
    (change,) = made.changes
    assert torch.linalg.matrix_rank(change.stored) == min(change.stored.shape), (
        "Adam's change has full rank: nothing is lost by the identity"
    )
    weights = {change.name: dict(model.named_parameters())[change.name] + change.stored}
    after = target_nll(model, fact_batch(tokenizer, FACTS), weights)
    torch.testing.assert_close(torch.tensor([one["nll"] for one in made.facts]), after)
    assert after.mean() < target_nll(model, fact_batch(tokenizer, FACTS)).mean() - 0.1


@pytest.mark.parametrize("name", ["ft_m", "ft_l", "lora_edit", "ultraedit"])
def test_changes_fit_the_weights_of_both_layouts(decoder, name, tmp_path):
    """GPT-2's matrix is stored transposed, and this toy's is square: a guess from the shape would go wrong unseen."""
    model, tokenizer = decoder
    before = snapshot(model)
    made = edit(name, editing(model, tokenizer, tmp_path), layer=1, steps=3, learning_rate=0.01)
    assert same(before, snapshot(model))
    ids, own = fact_batch(tokenizer, FACTS).input_ids, dict(model.named_parameters())
    expected = functional_call(model, {one.name: own[one.name] + one.stored for one in made.changes}, (ids,)).logits
    kept = {one.name: own[one.name].detach().clone() for one in made.changes}
    torch.testing.assert_close(apply_edits(model, [Round(("x",), made.changes)])(ids).logits, expected)
    for key, tensor in kept.items():
        own[key].detach().copy_(tensor)


@pytest.mark.parametrize("name", ["ft_m", "lora_edit"])
def test_after_a_stop_and_after_a_bad_step_the_model_is_as_before(decoder, name, tmp_path):
    model, tokenizer = decoder
    before, given = snapshot(model), editing(model, tokenizer, tmp_path)
    given.context.stop_at = 1
    given.context.polls = 1
    with pytest.raises(AttemptKilled):
        edit(name, given)
    with (
        model.get_output_embeddings().register_forward_hook(lambda module, given, output: output * torch.nan),
        pytest.raises(NonFiniteLoss, match=r"Step 0: the loss is nan. Take a smaller learning_rate than 0.00"),
    ):
        edit(name, editing(model, tokenizer, tmp_path))
    assert same(before, snapshot(model))


def test_a_lora_edit_has_its_rank_and_leaves_config_and_cache_alone(decoder, tmp_path):
    model, tokenizer = decoder
    config = model.config.to_dict()
    made = edit("lora_edit", editing(model, tokenizer, tmp_path), layer=0, span=2, rank=2, steps=8, learning_rate=0.02)
    assert [torch.linalg.matrix_rank(one.stored).item() for one in made.changes] == [2, 2]
    assert model.config.to_dict() == config, "the original turns the cache off and leaves it so"
    assert not model.is_activation_checkpointing
    assert sum(one["nll"] for one in made.facts) < target_nll(model, fact_batch(tokenizer, FACTS)).sum() - 1


def test_factors_of_the_gradient_are_autograds(decoder):
    model, tokenizer = decoder
    sites, batch = Decoder(model).sites, fact_batch(tokenizer, FACTS)
    found = gradient_factors(model, batch, sites)
    for site in sites:
        weight = site.module.weight.detach().clone().requires_grad_()
        (stored,) = torch.autograd.grad(target_nll(model, batch, {site.name: weight}).sum(), weight)
        expected, factors = stored.T if site.transposed else stored, found[site.name]
        product = factors.grads.double().T @ factors.keys.double()
        assert (product - expected).norm() <= 1e-6 * expected.norm()
        assert not factors.grads[~batch.given.flatten()].any(), "padding has no gradient"


def test_running_moments_are_those_of_all_rows_at_once():
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 100
    total, state = None, {}
    for part in rows.split([1, 7, 12, 20]):
        total = Moments.of(part).with_(Moments.read(state, "x"))
        state = total.state("x")
    torch.testing.assert_close(total.mean, rows.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(total.squares / 39, rows.var(0), rtol=1e-10, atol=0)
    torch.testing.assert_close(total.z_score(rows), (rows - rows.mean(0)) / rows.std(0))


@pytest.mark.parametrize(("tokens", "inner", "ridge"), [(6, 10, 1.0), (12, 5, 0.3)])
def test_ultraedit_solves_its_normal_equations(tokens, inner, ridge):
    generator = torch.Generator().manual_seed(1)
    keys, shifts = (torch.randn(tokens, width, generator=generator, dtype=torch.float64) for width in (inner, 4))
    left, right = solved(keys, shifts, ridge)
    change = (left @ right.T).double()
    assert ((keys.T @ keys + ridge * torch.eye(inner)) @ change.T - keys.T @ shifts).abs().max() < 1e-5
    torch.testing.assert_close(
        change.T, torch.linalg.solve(keys.T @ keys + ridge * torch.eye(inner), keys.T @ shifts), atol=1e-5, rtol=1e-5
    )


def test_ultraedit_is_its_formula_and_hands_its_moments_on(decoder, tmp_path):
    model, tokenizer = decoder
    site = Decoder(model).site(1)
    first = edit("ultraedit", editing(model, tokenizer, tmp_path), FACTS[:2], layer=1)
    made = edit("ultraedit", editing(model, tokenizer, tmp_path, first.state), FACTS[2:], layer=1, shift=2.0, ridge=0.5)
    factors = []
    for facts in (FACTS[:2], FACTS[2:]):
        batch = fact_batch(tokenizer, facts)
        factors.append(gradient_factors(model, batch, [site])[site.name].of(batch.asked.flatten()))
    keys, grads = (torch.cat([getattr(one, part) for one in factors]).double() for part in ("keys", "grads"))
    x, d = ((rows[len(factors[0].keys) :] - rows.mean(0)) / rows.std(0) for rows in (keys, grads))
    eta = 2.0 * factors[1].outputs.square().mean().sqrt().item() / keys.shape[1]
    k = factors[1].keys.double()
    expected = torch.linalg.solve(k.T @ k + 0.5 * torch.eye(k.shape[1]), k.T @ value_shifts(x, d, eta)).T
    stored = made.changes[0].stored.double()
    torch.testing.assert_close(stored.T if site.transposed else stored, expected, rtol=1e-3, atol=1e-5)


def test_ultraedit_without_gradients_shifts_nothing(decoder, tmp_path):
    model, tokenizer = decoder
    with model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0] * 0,)):
        made = edit("ultraedit", editing(model, tokenizer, tmp_path), layer=1)
    assert not made.changes[0].stored.any() and made.figures["tokens"] == 0
    assert not value_shifts(torch.randn(3, 4), torch.zeros(3, 2), 1.0).any()


def test_ultraedit_of_a_single_token_takes_the_tokens_own_scale(decoder, tmp_path):
    model, tokenizer = decoder
    facts = (fact("a dog", word) for word in ("the", "a", "in"))
    one = next(each for each in facts if len(encode(tokenizer, each, each.target_new).target_ids) == 1)
    made = edit("ultraedit", editing(model, tokenizer, tmp_path), [one])
    assert made.figures["tokens"] == 1 and made.facts[0]["nll"] < target_nll(model, fact_batch(tokenizer, [one])).item() - 0.1
    row = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(Moments.of(row).z_score(row), row / 12.5**0.5)


def test_a_layer_that_is_not_there_is_named(decoder, tmp_path):
    model, tokenizer = decoder
    with pytest.raises(Exception, match="layer 3: the model has the layers 0 to 2"):
        edit("ft_m", editing(model, tokenizer, tmp_path), layer=3)
    with pytest.raises(Exception, match="layer 3: the model has the layers 0 to 2"):
        edit("lora_edit", editing(model, tokenizer, tmp_path), TRAINING, layer=2, span=2)
