"""Defects seen in the trainers that others use, ours has none of them; what each computes is written out beside what is right.

Held elsewhere: TRL's count of the data set's labels where the student's own were learned from (``test_on_policy``); TRL's and DistillKit's
mean of micro-batches, TRL's MiniLLM loss over padding, DistillKit's ids of another tokenizer (``test_distill_step``, ``test_signals``);
LMOps' and TRL's gradient of sequences (``test_policy``); TRL's unshifted logits between tokenizers (``test_across``).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lfm_tasks.distillation.divergences import forward_kl, jsd, log_probabilities, reverse_kl, scaled
from lfm_tasks.distillation.signals import TopK
from lfm_tasks.distillation.stored import Recorded, open_signals, places
from lfm_tasks.models.ranks import Ranks
from lfm_tasks.training.batches import padded_batch
from tests.distilled import decoders, given, prepared, recorded, step_gradients

ONE_STEP = {"max_steps": 1, "max_grad_norm": 0, "alpha": 1.0}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return decoders(tmp_path_factory.mktemp("rivals"))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(6, 40, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_trl_gkd_temperature_is_in_the_loss_not_in_the_sampling_alone(toys, tmp_path):
    losses = [step_gradients(prepared(toys, tmp_path / f"{t:g}", temperature=t, **ONE_STEP))[0] for t in (1.0, 4.0)]
    assert losses[0] != pytest.approx(losses[1], rel=0.05)


def test_trl_gkd_small_beta_is_not_a_jump_of_the_normalised_loss(pair):
    log_q, log_p = (log_probabilities(one) for one in pair)
    plain, ours = jsd(log_q, log_p, 1e-4).mean(), jsd(log_q, log_p, 1e-4, normalised=True).mean()
    assert plain < 1e-3 * forward_kl(log_q, log_p).mean()
    torch.testing.assert_close(ours, forward_kl(log_q, log_p).mean(), rtol=2e-2, atol=0)
    assert jsd(log_q, log_p, 1.0, normalised=True).equal(reverse_kl(log_q, log_p))


def test_tinybert_the_loss_is_not_averaged_over_the_classes(pair):
    """Its soft cross-entropy ends in ``.mean()``: forty classes make it, and its gradient, forty times too small."""
    student, teacher = pair
    student.requires_grad_()
    (ours,) = torch.autograd.grad(forward_kl(log_probabilities(student), log_probabilities(teacher)).mean(), student)
    (theirs,) = torch.autograd.grad((-teacher.softmax(-1) * student.log_softmax(-1)).mean(), student)
    torch.testing.assert_close(theirs * 40, ours, rtol=1e-10, atol=0)


def test_textbrewer_the_size_of_the_gradient_does_not_fall_with_the_temperature(pair):
    student, teacher = pair
    student.requires_grad_()
    norms = {}
    for temperature in (10.0, 40.0):
        divergence = forward_kl(log_probabilities(student, temperature), log_probabilities(teacher, temperature)).mean()
        grads = [torch.autograd.grad(loss, student, retain_graph=True)[0].norm() for loss in (divergence, scaled(divergence, temperature))]
        norms[temperature] = grads
    assert norms[10.0][0] / norms[40.0][0] > 12, "without the square it falls sixteenfold"
    assert norms[10.0][1] / norms[40.0][1] == pytest.approx(1, abs=0.2)


def test_easydistill_a_row_is_learned_from_its_own_signals_in_every_micro_step(toys, tmp_path):
    """It reads rows ``global_step * batch`` on in the file's order while its sampler shuffles, the same ones for each micro-step, and
    ranks whose rows overlap."""
    signals = recorded(toys, tmp_path / "s", temperatures=[1.0], top=6, rows_per_part=5)
    training = prepared(toys, tmp_path / "w", inputs=given(toys, signals_0=signals), temperature=1.0, micro_batch_size=2, **ONE_STEP)
    source, teacher = training.objective.sources[0], prepared(toys, tmp_path / "t", **ONE_STEP).objective.teachers[0]
    seen = []
    for _, batch in training._batches(training.train, training.plan.examples(0)):
        told, said = source.ask(batch, 1.0), teacher.ask(batch, 1.0)[:]
        assert torch.equal(told.ids, said.log_p.topk(6).indices)
        seen += batch.examples
    assert sorted(seen) == sorted(training.plan.examples(0)) and len(set(seen)) == 8
    shares = [[one for _, one in Ranks(rank, 2).share(list(range(5)))] for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(5))


def test_easydistill_the_sum_is_divided_by_the_number_of_tokens_once(toys, tmp_path):
    whole, _ = step_gradients(prepared(toys, tmp_path / "w", packing=False, **ONE_STEP))
    training = prepared(toys, tmp_path / "v", packing=False, **ONE_STEP)
    batch = padded_batch(training.train, training.plan.examples(0), 0, labels=False)
    with torch.no_grad():
        total = training.objective.loss_sum(training.model, batch).item()
    assert whole == pytest.approx(total / len(batch.targets), rel=1e-5)


def test_easydistill_and_distillkit_what_a_cache_left_out_is_no_loss_of_a_perfect_student(pair):
    """EasyDistill gives it the probability 0 and does not renormalise; renormalising moves the optimum; DistillKit spreads the mass at
    the temperature 1 evenly, at others too. Of 40 classes 4 are kept."""
    student = pair[0].requires_grad_()
    for temperature in (1.0, 2.0, 4.0):
        log_p = log_probabilities(student.detach(), temperature)
        kept = log_p.topk(4)
        told = TopK(kept.indices, kept.values)
        log_q = log_probabilities(student, temperature)
        loss = told.distance(log_q, torch.zeros(6, dtype=torch.long), lambda q, p, _: forward_kl(q, p)).sum()
        (gradient,) = torch.autograd.grad(loss, student)
        assert abs(loss.item()) < 1e-12 and gradient.abs().max() < 1e-12
        log_q = log_probabilities(student, temperature).gather(-1, kept.indices)
        renormalised = (kept.values.softmax(-1) * (kept.values.log_softmax(-1) - log_q)).sum()
        (gradient,) = torch.autograd.grad(renormalised, student)
        assert renormalised > 0.1 and gradient.abs().max() > 0.01
    mass_at_one = 1 - log_probabilities(student.detach()).topk(4).values.exp().sum(-1)
    assert (mass_at_one - told.log_tail[:, 0].exp()).abs().max() > 0.1, "the missing mass at 4 is not that at 1"


def test_easydistill_no_tensor_of_batch_by_length_by_vocabulary_is_made_of_signals(toys, tmp_path):
    signals = recorded(toys, tmp_path / "s", top=6)
    training = prepared(toys, tmp_path / "w", **ONE_STEP)
    batch = padded_batch(training.train, [0, 1, 2, 3], 0, labels=False)
    told = Recorded(open_signals(signals), places(training.train, labels=False), torch.device("cpu")).ask(batch, 1.0)
    numbers = sum(math.prod(one.shape) for one in vars(told).values() if isinstance(one, torch.Tensor))
    assert numbers == 2 * 6 * len(batch.targets) < batch.input_ids.numel() * 400 / 20


def test_distillkit_a_divergence_has_a_value_that_is_known_beforehand():
    """It has no test of a loss. Two classes: p = (0.75, 0.25), q = (0.5, 0.5)."""
    log_p, log_q = torch.tensor([[0.75, 0.25]]).double().log(), torch.tensor([[0.5, 0.5]]).double().log()
    assert forward_kl(log_q, log_p).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12)
    assert np.isclose(reverse_kl(log_q, log_p).item(), 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2), rtol=1e-12)
