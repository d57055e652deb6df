"""Concrete Subspace: the mask's distribution and gradients, and what is left of the merge at its limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import RelaxedBernoulli

from lfm_tasks.models.forward import Batch
from lfm_tasks.reuse.adapting import descend
from lfm_tasks.reuse.entropy import entropy
from lfm_tasks.reuse.methods.concrete import Mask, by_logits, concrete, draw, learn_mask, rescaled
from lfm_tasks.reuse.methods.config import ConcreteAdamergingConfig, ConcreteTaskArithmeticConfig
from tests.groups import merge, random_group
from tests.reuse.test_adamerging import Merged, inputs, learning  # noqa: F401 (fixtures)


def test_a_draw_is_that_of_torchs_relaxed_bernoulli():
    logits = torch.linspace(-4, 4, 1000)
    torch.manual_seed(3)
    expected = RelaxedBernoulli(torch.tensor(0.5), logits=logits).rsample()
    torch.manual_seed(3)
    torch.testing.assert_close(draw(logits, 0.5, torch.rand(1000)), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(draw(logits, 0.5), draw(logits, 0.5, torch.full((1000,), 0.5)))


def test_the_gradient_by_the_logits_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits, uniform, weights = (torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(3))

    def value(logits):
        return (weights * rescaled(draw(logits, 0.5, uniform))[0] ** 2).sum()

    mask, mean = rescaled(draw(logits, 0.5, uniform))
    slope = torch.stack([(value(logits + step) - value(logits - step)) / 2e-6 for step in 1e-6 * torch.eye(6, dtype=torch.float64)])
    torch.testing.assert_close(by_logits(2 * weights * mask, mask, mean, 0.5), slope, atol=1e-7, rtol=1e-6)


def test_a_step_goes_down_autograds_gradient_through_mask_and_merge(learning):  # noqa: F811
    ours = Merged(learning)
    batches: list[Batch] = [next(task.stream(6, seed=4)) for task in learning.tasks]
    stage = Mask(ours, learning, ConcreteTaskArithmeticConfig())
    masks, means = stage._drawn(0)
    coefficients = torch.full((len(ours.names), 2), 0.3)
    ours.remake(coefficients, masks)
    descend(ours, learning.tasks, batches)
    found = {n: by_logits(g, masks[n], means[n], 0.5) for n, g in ours.by_masks(coefficients).items()}
    graph, leaves = {}, {}
    for name in ours.names:
        leaves[name] = torch.zeros(ours.leaves[name].shape, requires_grad=True)
        drawn = ((leaves[name] + stage._uniform(0, name).logit()) / 0.5).sigmoid()
        base = learning.base.read(name)
        graph[name] = base + drawn / drawn.mean() * 0.3 * sum(model.read(name) - base for model in learning.models)
    sum(entropy(task.logits(graph, batch)).mean() for task, batch in zip(learning.tasks, batches, strict=True)).backward()
    assert max(gradient.abs().max() for gradient in found.values()) > 1e-5
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, leaves[name].grad, atol=1e-6, rtol=1e-3)


def test_certain_masks_give_task_arithmetic_and_masks_of_zeros_the_base():
    group = random_group((24, 16))
    certain = rescaled(draw(torch.full((24, 16), math.inf), 0.5, torch.rand(24, 16)))[0]
    zeros, mean = rescaled(draw(torch.full((24, 16), -math.inf), 0.5))
    assert mean == 0 and by_logits(torch.ones(24, 16), zeros, mean, 0.5).abs().sum() == 0
    options = ConcreteTaskArithmeticConfig()
    assert torch.equal(concrete(_with(group, 0.3, certain), options), merge("concrete_task_arithmetic", group))
    torch.testing.assert_close(concrete(_with(group, 0.3, certain), options), merge("task_arithmetic", group, scale=0.3))
    assert torch.equal(concrete(_with(group, 0.3, zeros), options), group.base)
    assert torch.equal(concrete(_with(group, 0.0, certain), options), group.base)


def _with(group, coefficient: float, mask):
    return replace(group, learnt=torch.cat([torch.full((len(group.models),), coefficient), mask.flatten()]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_inner_step_starts_from_the_coefficient_every_time(learning, optimizer):  # noqa: F811
    """Whatever came before: with one batch for all steps and one draw, every answer is the same."""
    options = ConcreteAdamergingConfig(inner_optimizer=optimizer, inner_step_size=0.01, batch_size=48, granularity="task")
    stage = Mask(Merged(learning), learning, options)
    stage.inner = stage._batches("inner", 0)
    masks, _ = stage._drawn(0)
    first = stage._answer(masks)
    torch.testing.assert_close(stage._answer(masks), first, atol=1e-6, rtol=1e-5)
    if optimizer == "adam":
        torch.testing.assert_close((first - 0.3).abs(), torch.full_like(first, 0.01), atol=1e-6, rtol=1e-3)


def test_the_mask_lowers_the_entropy_and_a_draw_is_keyed_by_the_seed(learning):  # noqa: F811
    options = ConcreteTaskArithmeticConfig(mask_steps=8, mask_step_size=0.3, mask="sampled", check_every=8)
    one, again = learn_mask(learning, options), learn_mask(learning, options)
    assert all(torch.equal(one.tensors[name], again.tensors[name]) for name in one.tensors)
    median = learn_mask(learning, options.model_copy(update={"mask": "median"}))
    assert not any(torch.equal(one.tensors[name], median.tensors[name]) for name in one.tensors if one.tensors[name].numel() > 40)
    assert sum(median.metrics[f"entropy_end/models.{i}"] - median.metrics[f"entropy_start/models.{i}"] for i in (0, 1)) < -0.1
