"""Kernels of distillation without data against closed forms, finite differences and limits."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional

from lfm_tasks.distillation.data_free import losses, meta
from lfm_tasks.distillation.data_free.batch_norm import batch_norms, matching
from lfm_tasks.distillation.data_free.finite_differences import forward_differences, sphere
from lfm_tasks.distillation.data_free.pool import Pool
from lfm_tasks.distillation.data_free.synthesis import Best, balanced_targets
from lfm_tasks.errors import IncompatibleModels
from tests.images import images, toy, trained


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradient_of_distillation_is_t_times_the_difference_of_the_softened_probabilities():
    student, teacher, t = logits(5, 7).requires_grad_(), logits(5, 7, seed=1), 4.0
    (gradient,) = torch.autograd.grad(losses.distillation(student, teacher, t), student)
    expected = t * ((student / t).softmax(-1) - (teacher / t).softmax(-1)) / 5
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-14, rtol=1e-12)
    assert losses.distillation(teacher + 3, teacher, t).item() == pytest.approx(0, abs=1e-14)


def test_half_precision_logits_get_a_float32_softmax():
    student, teacher = (logits(3, 1000, seed=seed).mul(8).to(torch.bfloat16) for seed in (0, 1))
    assert losses.divergence(student, teacher).dtype == torch.float32
    torch.testing.assert_close(losses.divergence(student, teacher), losses.divergence(student.float(), teacher.float()))


def test_jensen_shannon_runs_from_0_to_1_and_has_a_gradient_where_the_two_nearly_agree():
    one, other = logits(4, 5), logits(4, 5, seed=1)
    torch.testing.assert_close(losses.jensen_shannon(one, other), losses.jensen_shannon(other, one))
    assert losses.jensen_shannon(one, one).abs().max() < 1e-15
    far = torch.tensor([[80.0, 0.0]]), torch.tensor([[0.0, 80.0]])
    assert losses.jensen_shannon(*far).item() == pytest.approx(1)
    near = (one + 1e-3 * other).requires_grad_()
    assert torch.autograd.grad(losses.jensen_shannon(near, one).sum(), near)[0].abs().max() > 1e-6


def test_balance_is_least_at_minus_ln_c_where_the_mean_prediction_is_uniform():
    assert losses.balance(10 * torch.eye(6, dtype=torch.float64)).item() == pytest.approx(-math.log(6))
    assert losses.balance(10 * torch.eye(6, dtype=torch.float64)[:1].expand(6, 6)).item() > -0.1
    uneven = logits(8, 6)
    mean = uneven.softmax(-1).mean(0)
    assert losses.balance(uneven).item() == pytest.approx((mean * mean.log()).sum().item()) and losses.balance(uneven) > -math.log(6)


@pytest.mark.parametrize(
    "loss",
    [
        losses.balance,
        losses.activation,
        lambda x: losses.distillation(x, logits(4, 3, seed=2), 20.0),
        lambda x: losses.jensen_shannon(x, logits(4, 3, seed=2), 3.0).sum(),
        lambda x: losses.disagreement(x, logits(4, 3) + 0.1 * logits(4, 3, seed=2)),
        lambda x: losses.logit_distance(x, logits(4, 3, seed=2)),
        lambda x: losses.total_variation(x.reshape(1, 1, 4, 3)),
        lambda x: losses.length(x),
        lambda x: losses.contrast(functional.normalize(x), functional.normalize(logits(4, 3, seed=3)), functional.normalize(x[:2]), 0.2),
        lambda x: losses.attraction(x, torch.tensor([0, 0, 1, 2])),
    ],
    ids=range(10),
)
def test_gradients_are_those_of_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, (logits(4, 3).requires_grad_(),))


def test_disagreement_counts_only_the_rows_whose_classes_agree():
    student, teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert losses.disagreement(student, teacher).item() == pytest.approx(losses.divergence(student[:1], teacher[:1]).item() / 2)


def test_contrast_is_ln_n_where_nothing_tells_apart_and_falls_where_each_finds_its_own():
    same = functional.normalize(torch.ones(4, 8))
    assert losses.contrast(same, same, same[:2], 0.2).item() == pytest.approx(math.log(6))
    apart = torch.eye(4, 8)
    assert losses.contrast(apart, apart, apart[:0], 0.05).item() < 1e-6


def test_attraction_is_the_mean_distance_of_pairs_of_two_classes():
    x, targets = logits(3, 1, 2, 2), torch.tensor([0, 0, 1])
    expected = ((x[0] - x[2]).square().mean() + (x[1] - x[2]).square().mean()) / 2
    torch.testing.assert_close(losses.attraction(x, targets), expected)
    assert losses.attraction(x, torch.zeros(3, dtype=torch.long)).item() == 0


def test_batch_norm_knows_the_batch_that_it_was_made_of_from_noise():
    model, (x, _) = toy(), images(64)
    for layer in batch_norms(model.train()):
        layer.momentum = 1.0
    model(pixel_values=x)
    model.eval()
    with matching(model) as statistics:
        model(pixel_values=x)
        own = statistics.loss().item()
        model(pixel_values=torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
        assert own < 0.05 * statistics.loss().item()


def test_batch_norm_loss_is_what_its_formula_says_of_the_layers_inputs():
    model, (x, _) = trained(), images(16, 3)
    layer = batch_norms(model)[0]
    seen = []
    with layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])), matching(model) as statistics:
        model(pixel_values=x)
    mean, variance = seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3), unbiased=False)
    expected = (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
    statistics.layers = statistics.layers[:1]
    torch.testing.assert_close(statistics.loss(), expected)


def test_gradient_of_the_batch_norm_loss_is_that_of_finite_differences():
    model, (x, _) = trained().double(), images(3, 3)

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        with matching(model) as statistics:
            model(pixel_values=pixels)
            return statistics.loss()

    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = logits(*x.shape)
    with torch.no_grad():
        slope = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_statistics_of_the_batch_norm_loss_are_averaged_with_those_before():
    model, (x, _) = trained(), images(8, 3)
    with matching(model) as statistics:
        model(pixel_values=x)
        first = statistics.statistics()
    with matching(model, 0.9, first) as statistics:
        model(pixel_values=x)
        torch.testing.assert_close(statistics.statistics(), first)
        model(pixel_values=x + 1)
        moved = statistics.statistics()[0]
    with matching(model) as statistics:
        model(pixel_values=x + 1)
        torch.testing.assert_close(moved, 0.9 * first[0] + 0.1 * statistics.statistics()[0])


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_and_the_mode_is_as_it_was_when_the_block_is_left(fails):
    model, (x, _) = trained().train(), images(4)
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    try:
        with matching(model):
            assert not model.training
            model(pixel_values=x)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before and model.training
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))


def test_a_teacher_without_statistics_is_refused_with_the_methods_that_work():
    with pytest.raises(IncompatibleModels, match="it is not there. Take one of the methods cake, .*or set the option"):
        batch_norms(toy("vit"))
    forgetful = torch.nn.Sequential(torch.nn.BatchNorm2d(2, track_running_stats=False), torch.nn.GroupNorm(1, 2))
    with pytest.raises(IncompatibleModels, match=r"keeps no running statistics \(track_running_stats=False\)"):
        batch_norms(forgetful)


def quadratic(steps: int, rate: float):
    """f(x) = a/2 |x - c|^2 from a start, after ``steps`` of gradient descent: a, c, start, end, the loss at the end."""
    a, c = 1.7, logits(4, seed=1)
    start, end = logits(4), logits(4).requires_grad_()

    def loss() -> torch.Tensor:
        return a / 2 * (end - c).square().sum()

    meta.adapt(torch.optim.SGD([end], lr=rate), loss, steps)
    return a, c, start, end, loss


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_fomaml_is_the_gradient_where_the_inner_steps_end_and_no_sum_of_those_on_the_way(steps):
    a, c, start, end, loss = quadratic(steps, 0.1)
    (found,) = meta.fomaml([end], loss)
    torch.testing.assert_close(found, a * (1 - 0.1 * a) ** steps * (start - c), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_reptile_is_the_way_that_the_inner_steps_went_and_has_no_other_factor(steps):
    a, c, start, end, _ = quadratic(steps, 0.1)
    (found,) = meta.reptile([start], [end])
    torch.testing.assert_close(found, (1 - (1 - 0.1 * a) ** steps) * (start - c), atol=1e-14, rtol=1e-12)


def test_forward_differences_along_a_basis_are_the_gradient_of_a_linear_function():
    x, slope = logits(3, 2, 2), logits(2, 2, seed=1)
    basis = torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2).expand(4, 3, 2, 2)
    found = forward_differences(lambda rows: (rows * slope).sum((1, 2)), x, basis, 1e-3)
    torch.testing.assert_close(found, slope.expand(3, 2, 2), atol=1e-10, rtol=1e-10)


def test_forward_differences_along_random_directions_are_unbiased_on_a_linear_function():
    slope, x = logits(6, seed=1), logits(1, 6)
    directions = sphere(5_000, x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(directions.norm(dim=2), torch.ones(5_000, 1, dtype=torch.float64))
    single = 6 * (directions @ slope)[..., None] * directions
    error = single.std(0) / math.sqrt(len(directions))
    found = forward_differences(lambda rows: rows @ slope, x, directions, 1e-3)
    assert ((found - slope).abs() < 4 * error).all()


def test_targets_are_balanced_and_chance_decides_who_is_ahead():
    generator = torch.Generator().manual_seed(0)
    ahead = Counter()
    for _ in range(60):
        counts = torch.bincount(balanced_targets(11, 4, generator), minlength=4)
        assert counts.max() - counts.min() <= 1 and counts.sum() == 11
        ahead.update(torch.nonzero(counts == counts.min()).flatten().tolist())
    assert len(ahead) == 4


def test_the_best_images_are_a_copy_of_what_they_were():
    pixels, best = torch.ones(2, 1, 2, 2), Best()
    assert best.offer(pixels, torch.tensor(1.0))
    pixels += 1
    assert not best.offer(pixels, torch.tensor(2.0))
    assert torch.equal(best.images, torch.ones(2, 1, 2, 2))


def test_the_pool_is_bounded_and_every_image_is_equally_likely_to_be_in_it():
    held = Counter()
    for seed in range(400):
        pool = Pool(5, seed, "pool")
        for part in torch.arange(20.0).split(3):
            pool.add(part[:, None, None, None], part[:, None])
        assert len(pool) == 5 and pool.seen == 20
        assert torch.equal(pool.images.flatten(), pool.answers.flatten())
        held.update(pool.images.flatten().int().tolist())
    assert len(held) == 20 and all(abs(count - 100) < 4 * math.sqrt(400 * 0.25 * 0.75) for count in held.values())


def test_what_was_drawn_from_the_pool_or_put_in_it_is_not_shared_with_it():
    given = torch.zeros(4, 1, 1, 1)
    pool = Pool(4, 0, "pool")
    pool.add(given, torch.zeros(4, 2))
    given += 1
    drawn, _ = pool.draw(3, torch.Generator())
    drawn += 1
    assert pool.images.sum() == 0
