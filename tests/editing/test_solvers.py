"""Solutions as matrices, in float64, beside systems that are solved another way: W'k = v* alone cannot see a wrong direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lfm_tasks.editing.filters import prune, rect
from lfm_tasks.editing.methods.batch import projected
from lfm_tasks.editing.methods.config import AlphaEditOptions
from lfm_tasks.editing.moments import RIDGE, RIDGE_OF_FEW, KeyMoments
from lfm_tasks.editing.solvers import COSINE, columns, direct, kept_energy, mixed, project, solve, strengths, unlike
from lfm_tasks.errors import DataError

D, WIDTH, FACTS = 40, 96, 7
"""Rows of W, length of a key, facts."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def preserved(count: int = 4000, rank: int = WIDTH) -> Tensor:
    """K0 [d_k, count], anisotropic (the condition of C is about 1e3), spanning ``rank`` dimensions."""
    mixing = torch.linalg.qr(drawn(WIDTH, rank, seed=1))[0] * torch.logspace(0, -1.5, rank, dtype=torch.float64)
    return mixing @ drawn(rank, count, seed=2)


K0 = preserved()
C = K0 @ K0.T / K0.shape[1]
KEYS, RESIDUALS = drawn(WIDTH, FACTS, seed=3), drawn(D, FACTS, seed=4)


def whitened(keys: Tensor) -> Tensor:
    return torch.linalg.solve(C, keys)


def memit(keys: Tensor, residuals: Tensor, ridge: float, earlier: Tensor | None = None) -> Tensor:
    before = None if earlier is None else (earlier, whitened(earlier))
    return solve(residuals, keys, whitened(keys), ridge, before).change


def rome(key: Tensor, residual: Tensor) -> Tensor:
    return solve(residual[:, None], key[:, None], whitened(key[:, None]), 0.0).change


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((found - expected).norm() / expected.norm()) < tolerance


def test_rome_writes_the_value_with_rank_one():
    change = rome(KEYS[:, 0], RESIDUALS[:, 0])
    close(change @ KEYS[:, 0], RESIDUALS[:, 0], 1e-12)
    assert int(torch.linalg.matrix_rank(change)) == 1
    direction = whitened(KEYS[:, :1])[:, 0]
    others = drawn(WIDTH, 20, seed=9)
    others -= torch.outer(direction, direction @ others) / (direction @ direction)
    assert float((change @ others).norm()) < 1e-10


def test_rome_is_the_solution_of_the_bordered_system():
    """min ||D K0||^2 with D k = r: for each row of D, [2C k; k^T 0] [row; multiplier] = [0; r]."""
    key, residual = KEYS[:, 0], RESIDUALS[:, 0]
    bordered = torch.zeros(WIDTH + 1, WIDTH + 1, dtype=torch.float64)
    bordered[:WIDTH, :WIDTH], bordered[:WIDTH, WIDTH], bordered[WIDTH, :WIDTH] = 2 * C, key, key
    right = torch.zeros(WIDTH + 1, D, dtype=torch.float64)
    right[WIDTH] = residual
    close(rome(key, residual), torch.linalg.solve(bordered, right)[:WIDTH].T, 1e-9)


def test_emmet_is_the_solution_of_the_bordered_system():
    bordered = torch.zeros(WIDTH + FACTS, WIDTH + FACTS, dtype=torch.float64)
    bordered[:WIDTH, :WIDTH], bordered[:WIDTH, WIDTH:], bordered[WIDTH:, :WIDTH] = 2 * C, KEYS, KEYS.T
    right = torch.cat([torch.zeros(WIDTH, D, dtype=torch.float64), RESIDUALS.T])
    change = memit(KEYS, RESIDUALS, 0.0)
    close(change, torch.linalg.solve(bordered, right)[:WIDTH].T, 1e-9)
    close(change @ KEYS, RESIDUALS, 1e-10)


def test_no_other_change_that_writes_the_facts_moves_preserved_keys_less():
    change = memit(KEYS, RESIDUALS, 0.0)
    least = float((change @ K0).norm())
    basis = torch.linalg.qr(KEYS)[0]
    for seed in range(20):
        other = 0.01 * drawn(D, WIDTH, seed=100 + seed)
        other -= other @ basis @ basis.T
        assert float(((change + other) @ K0).norm()) > least


def test_the_scale_of_the_moments_changes_nothing():
    scaled = solve(RESIDUALS, KEYS, whitened(KEYS) / 1e4, 0.0).change
    close(scaled, memit(KEYS, RESIDUALS, 0.0), 1e-10)


def test_emmet_of_one_fact_is_rome():
    close(memit(KEYS[:, :1], RESIDUALS[:, :1], 0.0), rome(KEYS[:, 0], RESIDUALS[:, 0]), 1e-14)


def test_memit_of_one_fact_is_rome_in_part():
    """q / (lambda + q), q = k^T C^-1 k: the share that a ridge leaves of a lone fact."""
    key, residual = KEYS[:, :1], RESIDUALS[:, :1]
    q = float(strengths(key, whitened(key)))
    for ridge in (0.01 * q, 0.1 * q, 10 * q):
        close(memit(key, residual, ridge), q / (ridge + q) * rome(key[:, 0], residual[:, 0]), 1e-12)


@pytest.mark.parametrize("ridge", [0.1, 50.0, 15_000.0])
def test_memit_fulfils_its_normal_equations_and_is_a_stacked_least_squares(ridge):
    change = memit(KEYS, RESIDUALS, ridge)
    assert float((change @ (ridge * C + KEYS @ KEYS.T) - RESIDUALS @ KEYS.T).norm()) < 1e-8
    stacked = torch.cat([ridge**0.5 * torch.linalg.cholesky(C).T, KEYS.T])
    wanted = torch.cat([torch.zeros(WIDTH, D, dtype=torch.float64), RESIDUALS.T])
    close(change, torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution.T, 1e-8)


def test_memit_by_woodbury_is_memit_by_the_large_system():
    earlier = drawn(WIDTH, 11, seed=5)
    close(memit(KEYS, RESIDUALS, 30.0), direct(RESIDUALS, KEYS, 30.0 * C).change, 1e-10)
    close(memit(KEYS, RESIDUALS, 30.0, earlier), direct(RESIDUALS, KEYS, 30.0 * C + earlier @ earlier.T).change, 1e-10)


def test_memit_without_a_ridge_is_emmet():
    close(memit(KEYS, RESIDUALS, 1e-6), memit(KEYS, RESIDUALS, 0.0), 1e-6)


def test_earlier_keys_keep_what_they_say():
    earlier = KEYS + 0.3 * drawn(WIDTH, FACTS, seed=6)
    drift = [float((memit(KEYS, RESIDUALS, 1.0, before) @ earlier).norm()) for before in (None, earlier)]
    assert drift[1] < 0.1 * drift[0]


def alphaedit(basis: Tensor, keys: Tensor, residuals: Tensor, ridge: float, earlier: Tensor | None = None) -> Tensor:
    before = None if earlier is None else (earlier, project(basis, earlier))
    return solve(residuals, keys, project(basis, keys), ridge, before).change


def test_alphaedit_is_the_published_formula_and_stays_in_the_null_space():
    basis = KeyMoments(C).null_space(0.1)
    projector, earlier, ridge = basis @ basis.T, drawn(WIDTH, 5, seed=7), 0.7
    close(projector @ projector, projector, 1e-12)
    close(projector.T, projector, 1e-14)
    found = alphaedit(basis, KEYS, RESIDUALS, ridge, earlier)
    gram = KEYS @ KEYS.T + earlier @ earlier.T
    identity = ridge * torch.eye(WIDTH, dtype=torch.float64)
    paper = RESIDUALS @ KEYS.T @ projector @ torch.linalg.inv(gram @ projector + identity)
    code = torch.linalg.solve(projector @ gram + identity, projector @ KEYS @ RESIDUALS.T).T
    close(found, paper, 1e-11)
    close(found, code, 1e-11)
    close(found @ projector, found, 1e-12)


def test_alphaedit_is_stationary():
    """Of ||D P K - R||^2 + L2 ||D P||^2 + ||D P K_p||^2 over D."""
    basis = KeyMoments(C).null_space(0.1)
    projector, earlier = basis @ basis.T, drawn(WIDTH, 5, seed=7)
    change = alphaedit(basis, KEYS, RESIDUALS, 0.7, earlier).requires_grad_()
    free = change @ projector
    objective = (free @ KEYS - RESIDUALS).square().sum() + 0.7 * free.square().sum() + (free @ earlier).square().sum()
    assert float(torch.autograd.grad(objective, change)[0].norm()) < 1e-10


def test_alphaedit_leaves_preserved_keys_of_a_true_null_space_alone():
    known = preserved(rank=60)
    basis = KeyMoments(known @ known.T / known.shape[1]).null_space(1e-12)
    assert basis.shape[1] == WIDTH - 60
    change = alphaedit(basis, KEYS, RESIDUALS, 1e-3)
    assert float((change @ known).norm() / (change @ KEYS).norm()) < 1e-6


def test_alphaedit_everywhere_is_memit():
    """P = I, and lambda C among the earlier keys: L2 towards 0 is MEMIT's change."""
    root = torch.linalg.cholesky(30.0 * C)
    found = alphaedit(torch.eye(WIDTH, dtype=torch.float64), KEYS, RESIDUALS, 1e-7, root)
    close(found, memit(KEYS, RESIDUALS, 30.0), 1e-5)


def test_the_null_space_goes_by_energy_not_by_size():
    moments = KeyMoments(C)
    values = moments.eigenbasis[0]
    for scale in (1.0, 1e-6):
        basis = KeyMoments(C * scale).null_space(0.1)
        held = basis.shape[1]
        assert float(values[:held].sum()) <= 0.1 * float(values.sum()) < float(values[: held + 1].sum())


def test_one_long_key_outside_of_the_null_space_refuses_no_facts():
    """SmolLM2's key where a text opens is up to twenty times as long as any other, and 99.7 % of it lies outside."""
    moments, options = KeyMoments(C), AlphaEditOptions(energy=0.1)
    vectors = moments.eigenbasis[1]
    outside = 1e3 * vectors[:, -1:]
    keys = torch.cat([KEYS, outside], 1)
    basis = moments.null_space(0.1)
    close(projected(moments, keys, options), project(basis, keys), 1e-12)
    assert kept_energy(keys, project(basis, keys)) > 0.3
    with pytest.raises(DataError, match="energy=0.1 has .* holds less than 5% of the energy of half of the keys.*Raise energy"):
        projected(moments, torch.cat([KEYS[:, :2], outside, vectors[:, -3:-1]], 1), options)


def test_few_tokens_are_smoothed_more():
    for tokens, share in ((10 * WIDTH, RIDGE), (10 * WIDTH - 1, RIDGE_OF_FEW)):
        moments = KeyMoments(C, tokens)
        added = moments.factor @ moments.factor.T - C
        close(added, share * float(C.trace()) / WIDTH * torch.eye(WIDTH, dtype=torch.float64), 1e-8)
        close((moments.factor @ moments.factor.T) @ moments.whiten(KEYS), KEYS, 1e-9)


def test_keys_that_are_one_are_refused_without_a_ridge():
    with pytest.raises(DataError, match="keys of 2 facts cannot be told apart.*ridge_share above 0"):
        memit(KEYS[:, [0, 0]], RESIDUALS[:, :2], 0.0)
    memit(KEYS[:, [0, 0]], RESIDUALS[:, :2], 1.0)


def test_a_fact_has_two_keys_where_one_cannot_be_near_both():
    contextual = drawn(2, 3, WIDTH, seed=8)
    contextual[0, 1:] = contextual[0, :1] + 0.1 * contextual[0, 1:]
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    fact, mix, cosine = columns(contextual, weights, True)
    assert fact.tolist() == [0, 1, 1] and cosine[0] > COSINE > cosine[1]
    keys = mixed(contextual, fact, mix)
    close(keys[:, 0], (contextual[0] * weights[:, None]).sum(0), 1e-15)
    close(keys[:, 1], contextual[1, 0], 1e-15)
    close(keys[:, 2], contextual[1, 1:].mean(0), 1e-15)
    change = solve(RESIDUALS[:, [0, 1, 1]], keys, whitened(keys), 0.0).change
    close(change @ contextual[1, 0], RESIDUALS[:, 1], 1e-10)
    assert columns(contextual, weights, False)[0].tolist() == [0, 1]


def test_a_key_is_unlike_those_of_its_fact_where_it_is_near_to_none():
    keys = torch.eye(4, dtype=torch.float64)[:, [0, 1, 2]]
    others = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.2, 0.0, 1.0, 0.0]], dtype=torch.float64).T
    assert unlike(keys, torch.tensor([0, 0, 1]), others).tolist() == []
    assert unlike(keys, torch.tensor([0, 1, 1]), others).tolist() == [0]


def test_rect_keeps_the_largest_shares():
    change, weight = drawn(3, 4, seed=10), drawn(3, 4, seed=11)
    found = rect(change, weight, 0.25)
    order = (change / weight).abs().flatten().argsort(descending=True)
    assert found.flatten().nonzero()[:, 0].tolist() == sorted(order[:3].tolist())
    assert torch.equal(found[found != 0], change[found != 0])


def test_prune_caps_the_singular_values_of_the_whole_change():
    left, right = drawn(D, 5, seed=12), drawn(WIDTH, 5, seed=13)
    before = torch.linalg.svdvals(left @ right.T)[:5]
    largest = 1.001 * float(before[2])
    u, v = prune(left, right, largest)
    assert u.shape[1] == 2
    after = torch.linalg.svdvals(left @ right.T + u @ v.T)[:5]
    expected = torch.where(before > largest, before.log() - torch.tensor(largest).log() + largest, before)
    close(after, expected.sort(descending=True).values, 1e-6)
    assert prune(left, right, 1e9)[0].shape[1] == 0
