"""Loss along the way between two models: the barrier, the curve, normalisation on the way, and the step on files."""

from __future__ import annotations

import json
from itertools import cycle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels, NonFiniteLoss
from lfm_tasks.reuse.alignment.matching import match
from lfm_tasks.reuse.alignment.weight_matching import WeightSimilarity
from lfm_tasks.reuse.connectivity import connect as step
from lfm_tasks.reuse.connectivity.config import ConnectConfig
from lfm_tasks.reuse.connectivity.path import Point, barrier, bezier, line, measure, put, reestimate, train_bezier, weights_of
from lfm_tasks.seeds import derive_seed
from tests.mixed import files
from tests.networks import Residual, mlp, permute, seeded, shuffled, specified, state
from tests.toys import make_bert, make_llama
from tests.tuned import LABELS, Context, StoppingAt, model_input, write_dataset

PLACES = [0, 0.25, 0.5, 0.75, 1]


def loss(model, batch):
    logits = model(batch[0])
    return functional.cross_entropy(logits, batch[1], reduction="none"), logits.argmax(-1) == batch[1]


def task():
    x = torch.randn(256, 5, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()


def train(rows, seed: int, widths=(5, 24, 16, 3), steps: int = 300):
    model = mlp(widths, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, rows)[0].mean().backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def trained():
    """A trained network, its copy with units in other places, and the rows."""
    rows = task()
    model = train(rows, 0)
    found = specified(model, rows[0])
    return model, weights_of(model), permute(found, state(model), shuffled(found)), rows


def points_of(model, path, rows):
    return list(measure(model, path, PLACES, loss, [rows], []))


def test_a_model_has_no_barrier_to_itself_and_one_to_its_permuted_copy(trained):
    model, a, b, rows = trained
    assert barrier(points_of(model, line(a, a), rows))[0] == pytest.approx(0, abs=1e-6)
    found = points_of(model, line(a, b), rows)
    assert found[0].loss == pytest.approx(found[-1].loss, abs=1e-5) and found[0].accuracy > 0.9
    height, place = barrier(found)
    assert height > 0.3 and 0 < place < 1


def test_alignment_brings_separate_trainings_closer():
    """An effect, over three pairs of seeds: the barrier falls to less than half."""
    rows, heights = task(), []
    for seed in (1, 3, 5):
        one, other = (train(rows, each, (5, 64, 3), 100) for each in (seed, seed + 1))
        found = specified(one, rows[0])
        matched = match(WeightSimilarity(found, state(one), state(other)), found.groups, seed=0)
        ends = (state(other), permute(found, state(other), matched))
        heights.append([barrier(points_of(train(rows, 0, (5, 64, 3), 0), line(weights_of(one), end), rows))[0] for end in ends])
    before, after = torch.tensor(heights).mean(0).tolist()
    assert before > 0.1 and after < before / 2, heights


def test_the_barrier_is_measured_from_the_line_between_the_ends():
    points = [Point(0, 1.0, 0), Point(0.25, 2.5, 0), Point(0.5, 2.75, 0), Point(1, 3.0, 0)]
    assert barrier(points) == (1.0, 0.25)
    assert barrier([Point(0, 1.0, 0), Point(0.5, 0.0, 0), Point(1, 1.0, 0)])[0] == 0


def test_a_trained_curve_goes_around_the_barrier_and_keeps_its_ends(trained):
    model, a, b, rows = trained
    middle = train_bezier(model, a, b, loss, cycle([rows]), 150, 0.02, seed=0)
    straight, curved = points_of(model, line(a, b), rows), points_of(model, bezier(a, middle, b), rows)
    assert curved[2].loss < straight[2].loss - 0.2
    assert barrier(curved)[0] < 0.5 * barrier(straight)[0]
    assert [point.loss for point in (curved[0], curved[-1])] == [point.loss for point in (straight[0], straight[-1])]
    again = train_bezier(model, a, b, loss, cycle([rows]), 3, 0.02, seed=0)
    assert all(torch.equal(again[name], other) for name, other in train_bezier(model, a, b, loss, cycle([rows]), 3, 0.02, seed=0).items())


def test_the_middle_follows_the_gradient_of_the_curve(trained):
    """The first step of Adam goes against the sign of each element's gradient, here taken through the curve itself."""
    model, a, b, rows = trained
    moved = train_bezier(model, a, b, loss, cycle([rows]), 1, 0.01, seed=3)
    start = {name: ((a[name] + b[name]) / 2).requires_grad_() for name in a}
    place = float(np.random.default_rng(derive_seed(3, "bezier", 0)).uniform())
    logits = torch.func.functional_call(model, bezier(a, start, b)(place), (rows[0],))
    gradients = torch.autograd.grad(functional.cross_entropy(logits, rows[1]), list(start.values()))
    for (name, tensor), gradient in zip(start.items(), gradients, strict=True):
        clear = gradient.abs() > 1e-5
        torch.testing.assert_close((moved[name] - tensor.detach())[clear], -0.01 * gradient.sign()[clear], atol=1e-4, rtol=0)


def test_a_curve_that_explodes_says_which_option_to_change(trained):
    model, a, b, rows = trained
    spoiled = (rows[0] * float("inf"), rows[1])
    with pytest.raises(NonFiniteLoss, match="The loss on the curve is nan at step 0. Choose a smaller learning_rate than 0.5"):
        train_bezier(model, a, b, loss, cycle([spoiled]), 2, 0.5, seed=0)


def test_statistics_of_normalisation_are_those_of_the_point():
    model = seeded(Residual, 0)
    rows = [(torch.randn(8, 2, 6, 6), torch.zeros(8, dtype=torch.long)) for _ in range(3)]
    reestimate(model, loss, rows)
    seen = torch.stack([model.stem(x).transpose(0, 1).flatten(1).mean(1) for x, _ in rows]).mean(0)
    torch.testing.assert_close(model.norm.running_mean, seen)
    assert model.norm.momentum == 0.1 and not model.norm.training
    plain = nn.Linear(2, 2)
    before = weights_of(plain)
    reestimate(plain, loss, rows)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(plain).items())


@pytest.fixture(scope="module")
def berts(tmp_path_factory):
    root = tmp_path_factory.mktemp("berts")
    for seed in (1, 2):
        make_bert(root / str(seed), labels=LABELS, seed=seed, hidden=16, layers=1)
    make_bert(root / "wide", labels=LABELS, hidden=32, layers=1)
    data = write_dataset(root / "data", root / "1", "classification")
    (data.path / "test.parquet").unlink()
    return root, data


def connected(berts, work, models=("1", "2"), context=None, **values):
    root, data = berts
    inputs = {f"models.{place}": model_input(root / name) for place, name in enumerate(models)}
    return step.run(ConnectConfig(points=5, **values), inputs | {"dataset": data}, context or Context(work))


def test_the_report_holds_both_curves_and_test_rows_are_not_read(berts, tmp_path):
    outcome = connected(berts, tmp_path / "work", bezier_steps=5)
    report = outcome.outputs["report"].path
    described = json.loads((report / "connectivity.json").read_text())
    line_points, curve_points = (described["curves"][name]["points"] for name in ("line", "bezier"))
    assert [point["a"] for point in line_points] == PLACES and line_points[0] == curve_points[0]
    assert (described["split"], described["rows"], described["batch_norm_reestimated"]) == ("validation", 5, False)
    assert outcome.metrics["line_barrier"] == described["curves"]["line"]["barrier"] >= 0
    assert "| 0.50 |" in (report / "report.md").read_text() and all(path.stat().st_size for path in outcome.figures)
    again = connected(berts, tmp_path / "again", bezier_steps=5).outputs["report"].path
    assert all((again / path.relative_to(report)).read_bytes() == path.read_bytes() for path in report.rglob("*.*"))


def test_a_decoder_is_measured_on_answers_or_on_every_token(tmp_path):
    for seed in (1, 2):
        make_llama(tmp_path / str(seed), seed=seed, hidden=16, layers=1)
    inputs = {f"models.{seed - 1}": model_input(tmp_path / str(seed)) for seed in (1, 2)}
    for task in ("instruction", "text"):
        data = write_dataset(tmp_path / task, tmp_path / "1", task)
        outcome = step.run(ConnectConfig(points=3), inputs | {"dataset": data}, Context(tmp_path / f"work-{task}"))
        assert outcome.metrics["line_barrier"] >= 0


def test_ends_that_do_not_belong_together_are_refused(berts, tmp_path):
    with pytest.raises(ConfigError, match="models: a path has two ends; 1 models were given. Give exactly two."):
        connected(berts, tmp_path / "work", models=("1",))
    with pytest.raises(IncompatibleModels, match="There is no way between 1 and wide: 'bert.embeddings.* is not of one shape in both"):
        connected(berts, tmp_path / "work", models=("1", "wide"))
    root, _ = berts
    make_bert(root / "two", labels=LABELS[:2], hidden=16, layers=1)
    with pytest.raises(IncompatibleModels, match="The models tell 3 and 2 classes apart, the data set has 3."):
        connected(berts, tmp_path / "work", models=("1", "two"))


@pytest.mark.parametrize("stopped", [1, 5, 8, 11, 13, 16])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(berts, tmp_path, stopped):
    """Among the points of the line, the steps of the curve and its points, and at the seams."""
    values = {"bezier_steps": 6, "batch_size": 5, "learning_rate": 0.01}
    whole = connected(berts, tmp_path / "whole", **values)
    with pytest.raises(AttemptKilled, match=f"Stopped on request. {stopped} of 16 points and steps are kept"):
        connected(berts, tmp_path / "again", context=StoppingAt(tmp_path / "again", stopped), **values)
    context = Context(tmp_path / "again")
    resumed = connected(berts, tmp_path / "again", context=context, **values)
    assert [done for done, _, _ in context.reports] == list(range(stopped + 1, 17))
    assert files(whole.outputs["report"].path) == files(resumed.outputs["report"].path) and whole.metrics == resumed.metrics


def test_weights_are_put_where_they_were_taken():
    model, other = mlp((3, 4, 2)), mlp((3, 4, 2), seed=1)
    put(model, weights_of(other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
