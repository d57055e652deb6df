"""Every kernel against a formula written out, its bounds, its limits and finite differences, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from lfm_tasks.distillation.divergences import (
    correlation,
    decoupled,
    dist,
    entropy,
    forward_kl,
    jsd,
    log_probabilities,
    logit_mse,
    mixture,
    reverse_kl,
    scaled,
    skew_kl,
    skew_reverse_kl,
    standardised,
    total_variation,
)

TEMPERATURES = [1.0, 2.0, 7.5]
KERNELS = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": lambda q, p: jsd(q, p, 0.3),
    "jsd_normalised": lambda q, p: jsd(q, p, 0.3, normalised=True),
    "skew_kl": lambda q, p: skew_kl(q, p, 0.1),
    "skew_reverse_kl": lambda q, p: skew_reverse_kl(q, p, 0.1),
    "total_variation": total_variation,
    "logit_mse": logit_mse,
    "decoupled": lambda q, p: decoupled(q, p, torch.arange(len(q)) % q.shape[-1], 1.0, 8.0),
    "dist": lambda q, p: dist(q, p, 1.0, 2.0),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def logits(rows=5, classes=7, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2)]


def pair(temperature=1.0, **options):
    student, teacher = logits(**options)
    return log_probabilities(student, temperature), log_probabilities(teacher, temperature)


def probabilities(temperature=1.0, **options):
    return [one.exp().numpy() for one in pair(temperature, **options)]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_values_are_those_of_the_formulas_written_out(temperature):
    log_q, log_p = pair(temperature)
    q, p = probabilities(temperature)
    m = 0.3 * p + 0.7 * q
    expected = {
        forward_kl: rel_entr(p, q),
        reverse_kl: rel_entr(q, p),
        total_variation: 0.5 * np.abs(p - q),
        KERNELS["jsd"]: 0.3 * rel_entr(p, m) + 0.7 * rel_entr(q, m),
        KERNELS["jsd_normalised"]: (0.3 * rel_entr(p, m) + 0.7 * rel_entr(q, m)) / 0.21,
        KERNELS["skew_kl"]: rel_entr(p, 0.1 * p + 0.9 * q),
        KERNELS["skew_reverse_kl"]: rel_entr(q, 0.9 * p + 0.1 * q),
    }
    for kernel, value in expected.items():
        np.testing.assert_allclose(kernel(log_q, log_p).numpy(), value.sum(-1), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(entropy(log_p).numpy(), -(p * np.log(p)).sum(-1), rtol=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_of_scaled_kl_is_t_times_q_minus_p(temperature):
    """TextBrewer leaves T**2 out, and TinyBERT averages over the classes as well: both change the learning rate unseen."""
    student, teacher = logits()
    student.requires_grad_()
    log_q, log_p = log_probabilities(student, temperature), log_probabilities(teacher, temperature)
    scaled(forward_kl(log_q, log_p), temperature).sum().backward()
    torch.testing.assert_close(student.grad, temperature * (log_q.exp() - log_p.exp()).detach(), rtol=0, atol=1e-12)


@kernels
def test_gradients_are_those_of_finite_differences(kernel):
    student, teacher = logits(rows=3, classes=4)
    student.requires_grad_(), teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: kernel(log_probabilities(s, 2.0), log_probabilities(t, 2.0)), (student, teacher))


@kernels
def test_zero_if_and_only_if_the_two_say_the_same(kernel):
    student, _ = logits()
    shift = torch.arange(5, dtype=torch.float64)[:, None] * 3 - 4
    for temperature in TEMPERATURES:
        same = kernel(log_probabilities(student + shift, temperature), log_probabilities(student, temperature))
        assert same.abs().max() < 1e-12
    assert kernel(*pair()).min() > 1e-4


@kernels
def test_a_constant_added_to_a_rows_logits_changes_nothing(kernel):
    student, teacher = logits()
    plain = kernel(log_probabilities(student), log_probabilities(teacher))
    moved = kernel(log_probabilities(student + 5), log_probabilities(teacher - 3))
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-12)


@kernels
def test_what_the_teacher_rules_out_gives_neither_nan_nor_gradient(kernel):
    student, teacher = logits()
    teacher[:, 2], student[1, 3] = -math.inf, -math.inf
    student.requires_grad_()
    value = kernel(log_probabilities(student, 2.0), log_probabilities(teacher, 2.0))
    value.sum().backward()
    assert value.isfinite().all() and student.grad.isfinite().all() and student.grad[1, 3] == 0


@kernels
def test_rows_are_in_float32_under_autocast_and_from_half_precision(kernel):
    student, teacher = (one.bfloat16() for one in logits())
    with torch.autocast("cpu", torch.bfloat16):
        value = kernel(log_probabilities(student), log_probabilities(teacher))
    expected = kernel(log_probabilities(student.double()), log_probabilities(teacher.double()))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)


def test_scaled_kl_goes_to_the_squared_difference_of_centred_logits():
    """Hinton et al., section 2.1; the error falls like 1 / T."""
    student, teacher = logits(scale=1.0)
    student.requires_grad_()
    (limit,) = torch.autograd.grad(0.5 * logit_mse(log_probabilities(student), log_probabilities(teacher)).sum(), student)
    errors = []
    for temperature in (1, 4, 50, 1000):
        loss = scaled(forward_kl(log_probabilities(student, temperature), log_probabilities(teacher, temperature)), temperature)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        errors.append(float((gradient - limit).abs().max()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 < errors[0]


def test_logit_mse_does_not_depend_on_the_temperature():
    student, teacher = logits()
    centred = [one - one.mean(-1, keepdim=True) for one in (student, teacher)]
    for temperature in TEMPERATURES:
        value = logit_mse(log_probabilities(student, temperature), log_probabilities(teacher, temperature), temperature)
        torch.testing.assert_close(value, (centred[0] - centred[1]).square().mean(-1), rtol=1e-10, atol=0)


@pytest.mark.parametrize("beta", [0.05, 0.3, 0.5, 0.9])
def test_jsd_is_bounded_by_the_entropy_of_its_weights_and_swaps_with_them(beta):
    log_q, log_p = pair(scale=30.0)
    value = jsd(log_q, log_p, beta)
    bound = -(beta * math.log(beta) + (1 - beta) * math.log(1 - beta))
    assert value.min() >= 0 and value.max() <= bound + 1e-12 <= math.log(2) + 2e-12
    torch.testing.assert_close(value, jsd(log_p, log_q, 1 - beta), rtol=1e-12, atol=1e-14)


def test_jsd_goes_to_both_divergences_and_its_normalised_form_arrives_there():
    """In TRL, beta = 0 is KL and a small beta is nearly 0: the size of the loss jumps. Here the normalised form has no jump."""
    log_q, log_p = pair(scale=1.0)
    errors = [float((jsd(log_q, log_p, beta) / beta - forward_kl(log_q, log_p)).abs().max()) for beta in (1e-2, 1e-4, 1e-6)]
    assert errors[0] < 0.2 and errors[1] < errors[0] / 50 and errors[2] < errors[1] / 50
    for beta, limit in ((1e-7, forward_kl), (1 - 1e-7, reverse_kl)):
        torch.testing.assert_close(jsd(log_q, log_p, beta, normalised=True), limit(log_q, log_p), rtol=1e-5, atol=1e-7)
        ending = jsd(log_q, log_p, float(round(beta)), normalised=True)
        torch.testing.assert_close(ending, limit(log_q, log_p), rtol=0, atol=0)


@pytest.mark.parametrize("kernel", [skew_kl, skew_reverse_kl])
def test_skewed_divergences_are_bounded_where_kl_is_not(kernel):
    log_q, log_p = pair(scale=200.0)
    assert forward_kl(log_q, log_p).max() > 50
    assert kernel(log_q, log_p, 0.1).max() <= math.log(10) + 1e-12
    small = kernel(*pair(), 1e-9)
    torch.testing.assert_close(small, {skew_kl: forward_kl, skew_reverse_kl: reverse_kl}[kernel](*pair()), rtol=1e-6, atol=1e-8)


def test_mixtures_are_mixtures():
    q, p = probabilities()
    log_q, log_p = pair()
    np.testing.assert_allclose(mixture(log_p, log_q, 0.2).exp().numpy(), 0.2 * p + 0.8 * q, rtol=1e-12)


def test_decoupled_with_the_weight_of_its_derivation_is_kl():
    log_q, log_p = pair()
    targets = torch.tensor([0, 3, 6, 2, 2])
    rows = torch.arange(5)
    other = decoupled(log_q, log_p, targets, 0.0, 1.0)
    parts = decoupled(log_q, log_p, targets, 1.0, 0.0) + (1 - log_p[rows, targets].exp()) * other
    torch.testing.assert_close(parts, forward_kl(log_q, log_p), rtol=1e-12, atol=1e-14)


def test_dist_is_one_minus_the_correlations_of_rows_and_of_classes():
    log_q, log_p = pair()
    q, p = probabilities()
    rows = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    classes = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    np.testing.assert_allclose(dist(log_q, log_p, 1.0, 2.0).numpy(), (1 - rows) + 2 * (1 - classes), rtol=1e-12)
    assert correlation(torch.ones(3), torch.arange(3.0)) == 0


def test_standardised_logits_forget_their_scale_and_place():
    student, _ = logits()
    assert standardised(student).std(-1, correction=0).sub(1).abs().max() < 1e-6
    torch.testing.assert_close(standardised(student * 13 + 4), standardised(student), rtol=1e-6, atol=1e-6)


def test_coarser_outcomes_are_no_farther_apart():
    """The data-processing inequality, which makes a bucket for the tail a lower bound."""
    log_q, log_p = pair(classes=9)

    def bucketed(one):
        return torch.cat([one[:, :4], torch.logsumexp(one[:, 4:], -1, keepdim=True)], -1)

    for name in ("forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation"):
        assert (KERNELS[name](bucketed(log_q), bucketed(log_p)) <= KERNELS[name](log_q, log_p) + 1e-12).all()
