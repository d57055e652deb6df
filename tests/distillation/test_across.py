"""Distillation between tokenizers: chunks of one text, and losses over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from lfm_tasks.distillation.across.chunks import aligned, boundaries
from lfm_tasks.distillation.across.losses import chunk_log_likelihoods, likelihood_matching, shared_and_rest, sorted_distance
from lfm_tasks.distillation.across.pairs import Pair
from lfm_tasks.distillation.divergences import forward_kl, log_probabilities


def byte_spans(text: str, cuts: set[int]) -> list[tuple[int, int]]:
    """Spans in characters of the tokens that end after ``cuts`` bytes, as byte-level tokenizers give them."""
    owner = [place for place, character in enumerate(text) for _ in character.encode()]
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(owner)), len(owner)]
    return [(owner[a], owner[b - 1] + 1) for a, b in zip(edges, edges[1:], strict=False)]


TEXT = st.text(min_size=1, max_size=12)
CUTS = st.sets(st.integers(1, 48), max_size=20)


@given(TEXT, CUTS, CUTS)
def test_chunks_part_both_sides_and_are_the_same_characters(text, first, second):
    sides = [byte_spans(text, cuts) for cuts in (first, second)]
    found = aligned(*sides)
    covered = []
    for spans, chunks in zip(sides, (found.ours, found.theirs), strict=True):
        assert (np.diff(chunks) >= 0).all()
        assert set(chunks) == set(range(found.count))
        members = [[spans[k] for k in np.flatnonzero(chunks == chunk)] for chunk in range(found.count)]
        covered.append([(min(s for s, _ in one), max(e for _, e in one)) for one in members])
    assert covered[0] == covered[1]
    assert covered[0][0][0] == 0
    assert all(a[1] == b[0] for a, b in zip(covered[0], covered[0][1:], strict=False))


@given(TEXT, CUTS, CUTS)
def test_no_chunk_could_be_cut_further(text, first, second):
    sides = [byte_spans(text, cuts) for cuts in (first, second)]
    common = set(boundaries(sides[0])) & set(boundaries(sides[1]))
    assert aligned(*sides).count == len(common)


@given(TEXT, CUTS)
def test_one_tokenizer_on_both_sides_gives_each_boundary_a_chunk(text, cuts):
    spans = byte_spans(text, cuts)
    found = aligned(spans, spans)
    assert (found.ours == found.theirs).all()


def test_where_chunks_begin_is_found_behind_tokens_of_no_chunk():
    """A space that one side alone has before the text: the numbers of the chunks do not ascend from the first token on."""
    pair = Pair(ours=np.array([3, 0, 1, 1, 2]), theirs=np.array([3, 3, 0, 0, 1, 2, 3]), count=3, teacher_row=0)
    assert pair.starts() == [(1, 2), (2, 4), (4, 5)]


def test_a_character_of_several_tokens_is_never_cut():
    # "é" is two bytes: one side has a token for each, the second of which goes on to the next letter
    assert aligned([(0, 1), (0, 2)], [(0, 1), (1, 2)]).count == 1
    assert aligned([(0, 1), (0, 1), (1, 2)], [(0, 1), (1, 2)]).ours.tolist() == [0, 0, 1]


def test_what_one_side_has_no_more_is_in_no_chunk():
    found = aligned([(0, 2), (2, 4), (4, 9)], [(0, 1), (1, 4), (4, 7)])
    assert found.count == 1
    assert found.ours.tolist() == [0, 0, 1]
    assert found.theirs.tolist() == [0, 0, 1]


def test_the_likelihood_of_a_chunk_is_the_product_of_its_conditionals():
    logs = torch.tensor([0.5, 0.25, 0.1], dtype=torch.float64).log()
    assert torch.allclose(chunk_log_likelihoods(logs, torch.tensor([0, 0, 1]), 2).exp(), torch.tensor([0.125, 0.1], dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 7.0, 100.0])
def test_likelihood_matching_is_the_binary_kl_written_out(temperature):
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (torch.rand(50, generator=generator, dtype=torch.float64).log() for _ in range(2))
    p, q = (log_p / temperature).exp(), (log_q / temperature).exp()
    right = temperature * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    assert torch.allclose(likelihood_matching(log_q, log_p, temperature), right, rtol=1e-9, atol=1e-12)


def test_likelihood_matching_is_nought_only_for_equals_and_has_its_limit_of_surprisals():
    log_p, log_q = torch.tensor([-0.1, -3.0, -40.0], dtype=torch.float64), torch.tensor([-0.5, -3.0, -2.0], dtype=torch.float64)
    found = likelihood_matching(log_q, log_p)
    assert found[1].abs() < 1e-12 and (found[[0, 2]] > 0).all()
    x, y = -log_p, -log_q
    assert torch.allclose(likelihood_matching(log_q, log_p, 1e6), x * (x / y).log() - x + y, rtol=1e-4)


def test_likelihood_matching_has_finite_gradients_at_both_ends():
    log_q = torch.tensor([-1e-9, -200.0, 0.0], requires_grad=True)
    likelihood_matching(log_q, torch.tensor([-200.0, -1e-9, 0.0])).sum().backward()
    assert torch.isfinite(log_q.grad).all()
    values = torch.tensor([-0.3, -2.0], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([-1.0, -0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda one: likelihood_matching(one, teacher), values)


def test_sorted_distance_is_the_wasserstein_distance_of_ranks_and_does_not_see_names():
    generator = torch.Generator().manual_seed(1)
    log_q, log_p = (log_probabilities(torch.randn(4, size, generator=generator, dtype=torch.float64)) for size in (6, 9))
    found = sorted_distance(log_q, log_p)
    for place in range(4):
        p, q = (np.sort(np.pad(one[place].exp().numpy(), (0, 9 - one.shape[-1])))[::-1] for one in (log_p, log_q))
        # on the line, the distance between the two samples of probabilities is the mean of |p_(i) - q_(i)|
        assert abs(float(found[place]) - 9 * wasserstein_distance(p, q)) < 1e-12
    shuffled = log_q[:, torch.randperm(6, generator=generator)]
    assert torch.allclose(sorted_distance(shuffled, log_p), found)
    assert (found >= 0).all() and (found <= 2).all()
    equal = log_probabilities(torch.randn(4, 9, generator=generator, dtype=torch.float64))
    assert (sorted_distance(equal, log_p) <= (equal.exp() - log_p.exp()).abs().sum(-1) + 1e-12).all()


def test_with_the_rest_as_one_outcome_tokens_that_the_teacher_has_not_cost_nothing():
    """The failure of hybrids that push unmatched tokens down: mass that the student moves among its own tokens changes no loss."""
    shared_q, shared_p = torch.tensor([0, 2]), torch.tensor([1, 0])
    p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    q = torch.tensor([[0.5, 0.1, 0.2, 0.2], [0.5, 0.3, 0.2, 0.0]], dtype=torch.float64)
    teacher = shared_and_rest(p.log(), shared_p)
    student = shared_and_rest(q.log(), shared_q)
    assert torch.allclose(student.exp().sum(-1), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(forward_kl(student, teacher.expand_as(student)), torch.zeros(2, dtype=torch.float64), atol=1e-6)
