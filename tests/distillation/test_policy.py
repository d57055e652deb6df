"""The policy gradient of the reverse KL against all sequences of a small vocabulary, one by one."""

from __future__ import annotations

import itertools

import pytest
import torch

from lfm_tasks.distillation.divergences import log_probabilities, reverse_kl
from lfm_tasks.distillation.sequences.policy import coefficients

VOCABULARY, LENGTH, STOP = 3, 3, 0
SEQUENCES = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))


class Table(torch.nn.Module):
    """Logits of the next token for each prefix: a model that can say anything."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = [VOCABULARY**place for place in range(LENGTH)]
        self.tables = torch.nn.ParameterList(
            [torch.nn.Parameter(torch.randn(size, VOCABULARY, generator=generator, dtype=torch.float64)) for size in sizes]
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[batch, length, vocabulary]``"""
        prefix, logits = torch.zeros(len(tokens), dtype=torch.long), []
        for place in range(LENGTH):
            logits.append(self.tables[place][prefix])
            prefix = prefix * VOCABULARY + tokens[:, place]
        return torch.stack(logits, 1)


@pytest.fixture
def student() -> Table:
    return Table(0)


@pytest.fixture
def teacher() -> Table:
    return Table(1).requires_grad_(False)


def counted(tokens: torch.Tensor) -> torch.Tensor:
    """True up to the first stop token, and with it."""
    stopped = (tokens == STOP).long().cumsum(-1)
    return (stopped - (tokens == STOP).long()) == 0


def chosen(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def loss_of(student_logits, teacher_logits, tokens, mask, log_sampler=None, **options) -> torch.Tensor:
    """``[sequences]``"""
    log_q, log_p = log_probabilities(student_logits), log_probabilities(teacher_logits)
    kl, said = reverse_kl(log_q, log_p), chosen(student_logits, tokens)
    found = coefficients(kl, said, mask.double(), log_sampler, **options)
    return (found.single * kl - found.long * said).sum(-1)


def distinct() -> torch.Tensor:
    """Each sequence once: what comes after the stop token is the stop token."""
    kept = torch.where(counted(SEQUENCES), SEQUENCES, STOP)
    return torch.unique(kept, dim=0)


def exact(student: Table, teacher: Table) -> list[torch.Tensor]:
    """Gradient of the sum over all sequences of q (log q - log p)."""
    tokens = distinct()
    mask = counted(tokens)
    log_q, log_p = ((chosen(model(tokens), tokens) * mask).sum(-1) for model in (student, teacher))
    return gradients((log_q.exp() * (log_q - log_p)).sum(), student)


def gradients(loss: torch.Tensor, student: Table) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(student.tables), retain_graph=True))


def sampler(student: Table, teacher: Table, share: float) -> torch.Tensor:
    """Log-probability ``[sequences, length]`` of each token where the teacher has the share of each draw."""
    tokens = distinct()
    log_q, log_p = (chosen(model(tokens), tokens) for model in (student, teacher))
    return ((1 - share) * log_q.exp() + share * log_p.exp()).log().detach()


def expected(student: Table, teacher: Table, share: float, **options) -> list[torch.Tensor]:
    """The loss's gradient, averaged over all sequences with what draws them."""
    tokens = distinct()
    mask = counted(tokens)
    log_sampler = sampler(student, teacher, share)
    losses = loss_of(student(tokens), teacher(tokens), tokens, mask, log_sampler if share else None, **options)
    return gradients(((log_sampler * mask).sum(-1).exp() * losses).sum(), student)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_baseline_changes_no_mean(student, teacher, share):
    baseline = torch.tensor([-0.7, 2.0, 0.3], dtype=torch.float64)
    for ours, right in zip(expected(student, teacher, share, baseline=baseline), exact(student, teacher), strict=True):
        assert torch.allclose(ours, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_over_all_sequences_the_gradient_is_that_of_the_exact_divergence_whoever_draws_them(student, teacher, share):
    for ours, right in zip(expected(student, teacher, share), exact(student, teacher), strict=True):
        assert torch.allclose(ours, right, rtol=0, atol=1e-12)


def test_weights_of_single_tokens_are_biased_where_the_teacher_leads_and_exact_where_it_does_not(student, teacher):
    right = exact(student, teacher)
    biased = expected(student, teacher, 0.5, per_token_weights=True)
    assert max((a - b).abs().max() for a, b in zip(biased, right, strict=True)) > 1e-3
    for ours, want in zip(expected(student, teacher, 0.0, per_token_weights=True), right, strict=True):
        assert torch.allclose(ours, want, rtol=0, atol=1e-12)


def test_a_student_that_is_the_teacher_has_no_gradient_in_any_single_sequence(student):
    tokens = distinct()
    same = Table(0).requires_grad_(False)
    losses = loss_of(student(tokens), same(tokens), tokens, counted(tokens))
    for loss in losses:
        assert all(gradient.abs().max() < 1e-14 for gradient in gradients(loss, student))


def test_a_known_mean_in_the_place_of_a_draw_varies_less(student, teacher):
    """Total variance of the gradient over sequences drawn from the student, beside that with r_j itself."""
    tokens = distinct()
    mask = counted(tokens)
    log_q, log_p = (chosen(model(tokens), tokens) * mask for model in (student, teacher))
    weights = log_q.sum(-1).exp().detach()
    rewards = (log_p - log_q).detach()
    after = rewards.flip(-1).cumsum(-1).flip(-1) - rewards
    q, p = student(tokens).log_softmax(-1), teacher(tokens).log_softmax(-1)
    drawn = ((q.exp() * (q - p)).sum(-1) * mask - after * log_q).sum(-1)
    known = loss_of(student(tokens), teacher(tokens), tokens, mask)

    def moments(losses: torch.Tensor) -> tuple[torch.Tensor, float]:
        rows = torch.stack([torch.cat([one.flatten() for one in gradients(loss, student)]) for loss in losses])
        mean = (weights[:, None] * rows).sum(0)
        return mean, float((weights[:, None] * (rows - mean).square()).sum())

    (mean_drawn, wide), (mean_known, narrow) = moments(drawn), moments(known)
    assert torch.allclose(mean_drawn, mean_known, atol=1e-12)
    assert narrow < wide


def test_a_monte_carlo_estimate_is_within_four_standard_errors(student, teacher):
    tokens = distinct()
    mask = counted(tokens)
    weights = (chosen(student(tokens), tokens) * mask).sum(-1).exp().detach()
    draws = torch.multinomial(weights, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    losses = loss_of(student(tokens), teacher(tokens), tokens, mask)
    rows = torch.stack([torch.cat([one.flatten() for one in gradients(loss, student)]) for loss in losses])[draws]
    right = torch.cat([one.flatten() for one in exact(student, teacher)])
    error = rows.std(0) / len(rows) ** 0.5
    assert ((rows.mean(0) - right).abs() <= 4 * error + 1e-12).all()


def test_what_comes_after_the_end_and_padding_count_for_nothing(student, teacher):
    tokens = distinct()
    mask = counted(tokens)
    logits, wanted = student(tokens), loss_of(student(tokens), teacher(tokens), tokens, mask)
    noise = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * ~mask[..., None]
    other = torch.where(mask, tokens, (tokens + 1) % VOCABULARY)
    found = loss_of(logits + noise, teacher(tokens) - noise, other, mask)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-14)


def test_a_rollout_of_no_token_has_loss_nought_and_a_gradient_that_is_a_number(student, teacher):
    tokens = distinct()
    loss = loss_of(student(tokens), teacher(tokens), tokens, torch.zeros_like(tokens, dtype=torch.bool)).sum()
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, student))


def test_length_normalisation_divides_what_is_to_come_by_its_tokens(student, teacher):
    tokens = torch.tensor([[1, 2, 1]])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    log_q = chosen(student(tokens), tokens)[0]
    plain, normalised = (loss_of(student(tokens), teacher(tokens), tokens, mask, length_normalised=flag)[0] for flag in (False, True))
    q, p = student(tokens).log_softmax(-1)[0], teacher(tokens).log_softmax(-1)[0]
    kl = (q.exp() * (q - p)).sum(-1).detach()
    assert torch.allclose(normalised - plain, (-(kl[1] + kl[2]) * log_q[0] / 2), atol=1e-12)
