"""Pareto MoE: exact Pareto optimal search against vertices, the front that it learns, and the plain models that come from it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.forward import forward, make_batch
from lfm_tasks.models.opening import open_with_head
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.reuse.mixtures.config import UnloadConfig
from lfm_tasks.reuse.mixtures.epo import epo_weights
from lfm_tasks.reuse.mixtures.unload import run as unload
from tests.mixed import CLASSES, IDS, encoders, files, given, mixed, result
from tests.prepared import write_labelled
from tests.tuned import Context


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def data(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    return [write_labelled(root / str(len(labels)), models[0], 12, labels=labels) for labels in CLASSES]


def mixture(models, data, work, **options):
    return mixed(models, work, data, method="pareto_moe", split="validation", options={"steps": 0, "batch_size": 12} | options)


def at(made, work, preference):
    return given(unload(UnloadConfig(preference=preference), {"model": made}, Context(work)).outputs["model"].path)


def loss(plain, models, data, task: int) -> float:
    model = open_with_head(plain, given(models[task + 1]), CLASSES[task])
    batch = make_batch(read_rows(data[task], "validation"), range(12), 0)
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(forward(model, batch), batch["target"]).item()


def test_two_tasks_have_a_closed_form():
    """On the segment (s, 1 - s) a linear objective is largest at an end of what the constraints leave of it."""
    random = np.random.default_rng(0)
    checked = 0
    for _ in range(120):
        gradients, losses = random.normal(size=(2, 5)), random.uniform(0.1, 3, 2)
        preference = random.dirichlet([1, 1])
        gram, shares = gradients @ gradients.T, preference * losses / (preference * losses).sum()
        uneven = (shares * np.log(2 * shares)).sum()
        anchor = gram @ (preference * (np.log(2 * shares) - uneven))
        if uneven <= 1e-4 or not (anchor > 0).any():
            continue
        bound = np.where(anchor > 0, -np.inf, anchor)
        bound[shares.argmax()] = 0
        low, high = 0.0, 1.0
        for (first, second), limit in zip(gram, bound, strict=True):
            slope, rest = first - second, limit - second
            low, high = (max(low, rest / slope), high) if slope > 0 else (low, min(high, rest / slope))
        if low > high or not np.isfinite([low, high]).all():
            continue
        expected = high if anchor[0] > anchor[1] else low
        np.testing.assert_allclose(epo_weights(gram, losses, preference), [expected, 1 - expected], atol=1e-6)
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_on_the_wanted_ray_all_losses_go_down_and_the_weights_are_a_share(tasks):
    random = np.random.default_rng(tasks)
    for _ in range(10):
        gradients, preference = random.normal(size=(tasks, 9)), random.dirichlet(np.ones(tasks)) + 0.05
        gram = gradients @ gradients.T
        weights = epo_weights(gram, 1 / preference, preference)
        assert weights.sum() == pytest.approx(1) and weights.min() >= -1e-9
        assert (gram @ weights).min() > -1e-6 * np.abs(gram).max()


def test_a_step_goes_to_the_ray_and_what_is_degenerate_keeps_the_preference():
    """Two quadratic losses: the descent lowers the one that is too high for the preference."""
    preference, place, goals = np.array([0.2, 0.8]), np.array([0.3, 0.4]), np.array([[1.0, 0.0], [0.0, 1.0]])
    for _ in range(150):
        gradients = 2 * (place - goals)
        losses = ((place - goals) ** 2).sum(1)
        place = place - 0.05 * epo_weights(gradients @ gradients.T, losses, preference) @ gradients
    weighted = preference * losses
    assert weighted[0] / weighted[1] == pytest.approx(1, abs=0.05)
    assert place.sum() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(epo_weights(np.zeros((2, 2)), losses, preference), preference)


def test_every_preference_is_a_plain_model_and_its_own_is_what_is_opened(models, data, tmp_path):
    outcome = mixture(models, data, tmp_path / "work", steps=2, preference=[0.25, 0.75], router_depth=2)
    made = result(outcome)
    assert files(made.path) == files(result(mixture(models, data, tmp_path / "b", steps=2, preference=[0.25, 0.75], router_depth=2)).path)
    own, other = at(made, tmp_path / "own", []), at(made, tmp_path / "other", [1.0, 0.0])
    head = given(models[1])
    assert torch.equal(open_with_head(made, head)(IDS).logits, open_with_head(own, head)(IDS).logits)
    assert files(at(made, tmp_path / "same", [0.25, 0.75]).path) == files(own.path)
    assert not torch.equal(open_with_head(other, head)(IDS).logits, open_with_head(own, head)(IDS).logits)
    assert load_file(own.path / "model.safetensors").keys() == load_file(models[0] / "model.safetensors").keys()
    assert outcome.metrics["router_parameters"] == 4 * (2 * 4 + 4 + 4 * 2 + 2)
    for wrong in ([1.0], [0.5, 0.6], [-0.5, 1.5]):
        with pytest.raises(ConfigError, match="give 2 numbers of at least 0 that sum to 1"):
            at(made, tmp_path / "wrong", wrong)


@pytest.mark.parametrize("scalarisation", ["linear", "epo"])
def test_the_front_follows_the_preference_and_covers_more_than_task_arithmetic(models, data, tmp_path, scalarisation):
    options = {"steps": 25, "learning_rate": 0.1, "scalarisation": scalarisation}
    made, start = (result(mixture(models, data, tmp_path / name, **o)) for name, o in (("made", options), ("start", {"steps": 0})))
    shares = (0.05, 0.5, 0.95)
    unloaded = [at(made, tmp_path / f"{share}", [share, 1 - share]) for share in shares]
    *front, plain = [[loss(one, models, data, task) for task in (0, 1)] for one in [*unloaded, at(start, tmp_path / "plain", [])]]
    assert front[2][0] < front[0][0] and front[0][1] < front[2][1]
    worst = [max(point[task] for point in [*front, plain]) + 0.1 for task in (0, 1)]
    assert hypervolume(front, worst) > hypervolume([plain], worst)


def hypervolume(points, worst) -> float:
    """Area below ``worst`` that the points dominate."""
    area, edge = 0.0, worst[1]
    for first, second in sorted(points):
        area, edge = area + max(0.0, worst[0] - first) * max(0.0, edge - second), min(edge, second)
    return area


def test_the_area_is_counted_once():
    assert hypervolume([[1, 2], [2, 1]], [3, 3]) == 3
    assert all(hypervolume(list(order), [3, 3]) == 3 for order in itertools.permutations([[1, 2], [2, 1], [2, 2]]))
