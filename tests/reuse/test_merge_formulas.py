"""Methods that mergekit lacks, or our own conventions of those it has, against their papers' formulas in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.magnitudes import largest
from lfm_tasks.reuse.methods.config import TiesConfig
from lfm_tasks.reuse.methods.ties import TIES
from tests.groups import merge, random_group

SHAPE = (40, 24)


@pytest.fixture
def group():
    return random_group(SHAPE, 3, seed=5)


@pytest.fixture
def base(group):
    return group.base.double()


@pytest.fixture
def taus(group, base):
    return torch.stack([model.double() - base for model in group.models])


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 100, 959, 960])
def test_the_selection_is_exact(group, rank):
    magnitudes = (group.models[0] - group.base).abs().flatten().sort(descending=True).values
    assert largest(group.base, group.models[0], rank) == [float(magnitudes[rank - 1])]


def test_ties_over_the_whole_model_has_one_threshold_for_all_tensors():
    """Two tensors, the second with task vectors a tenth as large: its share is what a single sort of both leaves to it."""
    groups = [random_group(SHAPE, 3, seed=1), random_group((30, 8), 3, seed=2, size=0.02)]
    config = TiesConfig(trim="global", density=0.3)
    surveyed = ()
    for survey in TIES.surveys(config):
        surveyed += (sum(survey(replace(group, surveyed=surveyed), config) for group in groups),)
    deltas = [torch.cat([(group.models[i] - group.base).flatten() for group in groups]) for i in range(3)]
    kept = [delta * (delta.abs() >= delta.abs().sort(descending=True).values[int(0.3 * len(delta)) - 1]) for delta in deltas]
    stacked = torch.stack(kept).double()
    sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    wins = (stacked.sign() == sign).double()
    expected = (stacked * wins).sum(0) / wins.sum(0).clamp(min=1)
    found = torch.cat([(TIES.kernel(replace(g, surveyed=surveyed), config).double() - g.base).flatten() for g in groups])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_ties_keeps_a_fifth_and_not_one_more():
    """The reference code keeps int(N * K) + 1 of N, and fails where all are kept."""
    group = random_group((10,), 1)
    assert int((merge("ties", group, density=0.2) != group.base).sum()) == 2
    torch.testing.assert_close(merge("ties", group, density=1), group.models[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_ties_other_ways_to_combine(group, base, taus, combine):
    sign = torch.where(taus.sum(0) >= 0, 1.0, -1.0)
    wins = taus * (taus.sign() == sign)
    expected = wins.sum(0) if combine == "sum" else sign * wins.abs().amax(0)
    close(merge("ties", group, density=1, combine=combine, scale=0.3), base + 0.3 * expected)


def test_ties_as_peft_counts(group, base, taus):
    """majority_sign_method="frequency", and the weighted sum divided by how many agree: not by their weights."""
    weights = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64).view(3, 1, 1)
    wins = taus.sign() == torch.where(taus.sign().sum(0) >= 0, 1.0, -1.0)
    expected = (weights * taus * wins).sum(0) / wins.sum(0).clamp(min=1)
    close(merge("ties", group, density=1, weights=[2, -1, 0.5], elect="votes", combine="count"), base + expected)


def test_weights_that_cancel_have_no_mean(group, base, taus):
    with pytest.raises(ConfigError, match=r"\[0.1, 0.2, -0.3\] sum to zero, so they have no average. Change a weight, or set combine=sum"):
        merge("ties", group, weights=[0.1, 0.2, -0.3])
    agreeing = [(base + factor * taus[0]).float() for factor in (1, 2, 3, -0.5)]
    where_some_cancel = replace(group, models=tuple(agreeing), keys=tuple("abcd"))
    close(merge("ties", where_some_cancel, density=1, weights=[0.1, 0.2, -0.3, 1]), base - 0.4 * taus[0])


def test_dare_keeps_the_expectation(group, base, taus):
    masks = torch.stack([torch.from_numpy(group.stream(i, "drop").random(960, dtype=np.float32) < 0.3).view(SHAPE) for i in range(3)])
    close(merge("dare_linear", group, drop_rate=0.7), base + (taus * masks / 0.3).sum(0))
    assert 0.2 < float(masks.double().mean()) < 0.4


def test_dare_that_drops_everything_of_a_tensor_is_the_base():
    """With L1 rescaling nothing is left to rescale: no zero is divided by zero."""
    group = random_group((1,), 1)
    results = [merge("dare_linear", replace(group, seed=seed), drop_rate=0.9, rescale="l1") for seed in range(20)]
    assert any(torch.equal(result, group.base) for result in results)
    assert all(result.isfinite().all() for result in results)


def test_della_divides_each_element_by_its_own_probability(group, base, taus):
    ranks = taus.abs().argsort(2).argsort(2).double() / (SHAPE[1] - 1)
    keep = 0.4 - 0.15 + 0.3 * ranks
    draws = torch.stack([torch.from_numpy(group.stream(i, "drop").random(960, dtype=np.float32)).view(SHAPE) for i in range(3)])
    close(merge("della_linear", group, density=0.4), base + (taus * (draws < keep) / keep).sum(0))
    with pytest.raises(ConfigError, match="density=0.1 with epsilon=0.15.*Lower epsilon"):
        merge("della", group, density=0.1)


def test_magmax_lines_and_depth(group, base, taus):
    place = taus.abs().argmax(0, keepdim=True)
    close(merge("magmax", group, scale=0.5), base + 0.5 * taus.gather(0, place)[0])
    middle = replace(group, depth=0.25)
    close(merge("lines", middle, shallow=0.2, deep=1.0), base + 0.4 * taus.sum(0))
    models = torch.stack(group.models).double()
    weights = torch.tensor([0.75, 0.25, 1.0], dtype=torch.float64)  # of (1, 0, 1) and (0, 1, 1) at a quarter of the depth
    close(merge("weighted", middle, weights=[1, 0, 1], deep_weights=[0, 1, 1]), (weights[:, None, None] * models).sum(0) / 2)


def test_consensus_counts_the_tasks_that_need_an_element(group, base, taus):
    total = taus.sum(0)
    needed = (taus.abs() >= 0.4 * (total - taus).abs()).sum(0)
    close(merge("consensus", group, agreement=2, scale=0.3), base + 0.3 * total * (needed >= 2))
    with pytest.raises(ConfigError, match="agreement=4: only 3 models are merged"):
        merge("consensus", group, agreement=4)


def test_emr_unified_and_for_one_task(group, base, taus):
    sign = torch.where(taus.sum(0) >= 0, 1.0, -1.0)
    unified = sign * (taus * (taus.sign() == sign)).abs().amax(0)
    close(merge("emr", group), base + unified)
    mask = taus[1] * unified > 0
    factor = taus[1].abs().sum() / (unified * mask).abs().sum()
    close(merge("emr", group, task=2), base + factor * unified * mask)
    with pytest.raises(ConfigError, match="task=4: only 3 models are merged"):
        merge("emr", group, task=4)


def test_model_stock_is_clamped_where_the_estimate_leaves_the_segment(base):
    group = random_group(SHAPE, 2, seed=5)
    opposed = replace(group, models=(group.models[0], group.base - (group.models[0] - group.base) * 0.9))
    assert torch.equal(merge("model_stock", opposed), opposed.base)
    assert not torch.allclose(merge("model_stock", random_group(SHAPE, 3), average="angle"), base.float())


def test_iso_c_makes_all_directions_equal(group, base, taus):
    merged = merge("iso_c", group).double() - base
    singular = torch.linalg.svdvals(taus.sum(0))
    close(torch.linalg.svdvals(merged), singular.mean().expand(24))


@pytest.mark.parametrize("name", ["tsv_m", "iso_cts"])
def test_tasks_in_orthogonal_subspaces_do_not_disturb_each_other(name):
    """Three tasks with three directions each: TSV-M gives their sum; ISO-CTS their sum with equal singular values."""
    group = random_group((12, 9), 3)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(n)))[0][:, :9] for n in (12, 9))
    strengths = torch.arange(9.0, 0.0, -1.0)
    shares = [(torch.arange(9) % 3 == task) * strengths for task in range(3)]
    merged = merge(name, replace(group, models=tuple(group.base + (u * share) @ v.T for share in shares))) - group.base
    expected = strengths if name == "tsv_m" else torch.full((9,), 5.0)
    torch.testing.assert_close(u.T @ merged @ v, torch.diag(expected), atol=1e-4, rtol=1e-4)


def test_wudi_in_gram_form_is_adam_on_the_papers_loss(group, base, taus):
    merged = taus.sum(0).clone().requires_grad_()
    optimizer = torch.optim.Adam([merged], lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        sum(((merged - tau) @ tau.T).square().sum() / tau.square().sum() for tau in taus).backward()
        optimizer.step()
    found = merge("wudi", group, adam_steps=20, learning_rate=1e-3)
    torch.testing.assert_close(found.double(), base + merged.detach(), atol=1e-4, rtol=1e-4)
