"""What each alignment method is for, and its kernel against enumeration or an independent account of it."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from lfm_tasks.errors import InvalidInput
from lfm_tasks.reuse.alignment.activations import Moments
from lfm_tasks.reuse.alignment.matching import ascend, assign, match, total
from lfm_tasks.reuse.alignment.transport import sinkhorn
from lfm_tasks.reuse.alignment.weight_matching import WeightSimilarity
from lfm_tasks.reuse.alignment.zipit import zip_features
from tests.conformance.test_alignment_methods import aligned, pair_of
from tests.networks import mlp, network, outputs, permute, shuffled, specified, state, with_state


def test_weight_matching_finds_what_enumeration_finds():
    inputs = torch.randn(4, 3)
    one, other = (mlp((3, 4, 3, 2), seed=seed) for seed in (0, 1))
    found = specified(one, inputs)
    similarity = WeightSimilarity(found, state(one), state(other))
    groups = list(found.groups)

    def product(choice) -> float:
        moved = permute(found, state(other), dict(zip(groups, map(torch.tensor, choice), strict=True)))
        return sum(float((moved[name] * tensor).sum()) for name, tensor in state(one).items())

    best = max(((a, b) for a in permutations(range(4)) for b in permutations(range(3))), key=product)
    matched = match(similarity, found.groups, seed=0)
    assert product([matched[group].tolist() for group in groups]) == pytest.approx(product(best), rel=1e-6)


def test_ascent_never_loses_and_its_order_is_the_seeds():
    one, inputs = network("cnn")
    found = specified(one, inputs)
    similarity = WeightSimilarity(found, state(one), state(network("cnn", seed=9)[0]))
    start = shuffled(found)
    ends = [ascend(similarity, start, seed) for seed in (0, 0, 1)]
    assert all(torch.equal(ends[0][group], ends[1][group]) for group in start)
    assert all(total(similarity, end) >= total(similarity, start) for end in ends)


def test_correlations_are_those_of_numpy_and_a_dead_unit_has_none():
    x, y = torch.randn(50, 4), torch.randn(50, 3) + 7
    y[:, 1] = 2.5
    moments = Moments()
    for start in range(0, 50, 20):
        moments.add(x[start : start + 20], y[start : start + 20])
    expected = torch.corrcoef(torch.cat([x, y], 1).mT)[:4, 4:]
    expected[:, 1] = 0
    torch.testing.assert_close(moments.correlation(), expected, atol=1e-5, rtol=1e-5)


def test_sinkhorn_has_uniform_margins_and_goes_over_into_the_permutation():
    similarity = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    hard = torch.eye(9, dtype=torch.float64)[assign(similarity)]
    assert torch.equal(sinkhorn(similarity, 0), hard)
    torch.testing.assert_close(sinkhorn(similarity, 1e-3), hard, atol=1e-3, rtol=0)
    soft = sinkhorn(similarity, 0.3)
    torch.testing.assert_close(soft.sum(0), torch.ones(9, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(soft.sum(1), torch.ones(9, dtype=torch.float64), atol=1e-12, rtol=0)
    ratios = soft.log() - similarity.double() / (0.3 * float(similarity.max() - similarity.min()))
    rows = ratios - ratios.mean(1, keepdim=True)
    torch.testing.assert_close(rows, rows.mean(0, keepdim=True).expand(9, 9), atol=1e-6, rtol=0, msg="not the Gibbs form of a plan")


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_transport_with_little_entropy_is_weight_matching(kind):
    pair = pair_of(kind, state(network(kind, seed=7)[0]))
    hard, soft = aligned("weight_matching", pair), aligned("transport", pair, regularization=1e-4)
    for name, tensor in hard.items():
        torch.testing.assert_close(soft[name], tensor, atol=2e-3, rtol=2e-3)
    blurred = aligned("transport", pair, regularization=1.0)
    name = next(iter(pair.specification.axes))
    assert blurred[name].norm() < 0.9 * hard[name].norm()


def greedy(correlation: list[list[float]], kept: int, alpha: float, budget: int) -> list[set[int]]:
    """ZipIt as its paper's algorithm 1 puts it: clusters, and a table of the correlations of each two."""
    features = len(correlation)
    clusters = {i: {i} for i in range(features)}
    origin = {i: i >= features // 2 for i in range(features)}
    left = {False: budget, True: budget}
    table = {frozenset((i, j)): correlation[i][j] for i in range(features) for j in range(i)}
    while len(clusters) > kept:
        allowed = [pair for pair in table if len({origin[i] for i in pair}) == 2 or left[origin[min(pair)]] > 0]
        i, j = sorted(max(allowed, key=table.get))
        if origin[i] == origin[j]:
            left[origin[i]] -= 1
        clusters[i] |= clusters.pop(j)
        for k in clusters.keys() - {i}:
            table[frozenset((i, k))] = alpha * min(table[frozenset((i, k))], table[frozenset((j, k))])
        table = {pair: score for pair, score in table.items() if j not in pair}
    return [clusters[i] for i in sorted(clusters)]


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.125), (1.0, 0.5), (0.01, 1.0), (0.3, 0.4), (0.3, 0.0)])
def test_zipit_merges_as_its_paper_says(alpha, beta):
    correlation = torch.corrcoef(torch.randn(24, 10, generator=torch.Generator().manual_seed(1)))
    merge, unmerge = zip_features(correlation, alpha=alpha, beta=beta)
    clusters = greedy(correlation.tolist(), 12, alpha, int(6 * beta + 1e-4))
    assert [set(column.nonzero().flatten().tolist()) for column in unmerge.T] == clusters
    assert set(unmerge.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(merge @ unmerge, torch.eye(12, dtype=torch.float64))


def test_zipit_of_a_permuted_copy_is_the_model():
    one, inputs = network("cnn")
    found = specified(one, inputs)
    pair = pair_of("cnn", permute(found, state(one), shuffled(found)))
    zipped = with_state("cnn", aligned("zipit", pair, beta=0))
    torch.testing.assert_close(outputs(zipped, inputs), outputs(one, inputs), atol=1e-4, rtol=1e-4)


def test_zipit_says_where_it_is_not_defined():
    with pytest.raises(InvalidInput, match="ZipIt merges units between Linear and Conv layers, and this model has none that stand alone"):
        aligned("zipit", pair_of("gpt2", state(network("gpt2")[0])))
