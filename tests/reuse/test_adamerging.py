"""AdaMerging: gradients beside autograd through the whole merge, stops, collapses, and what it does for accuracy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_tasks.catalogue import METHODS
from lfm_tasks.errors import AttemptKilled
from lfm_tasks.models.forward import forward, make_batch
from lfm_tasks.models.opening import open_with_head
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.adapting import descend
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.entropy import Look, Watch, entropy
from lfm_tasks.reuse.learning import Learning
from lfm_tasks.reuse.merged import Merged
from lfm_tasks.reuse.methods.adamerging import shared, trimmed
from lfm_tasks.reuse.methods.ties import thresholds
from lfm_tasks.reuse.plan import plan
from lfm_tasks.reuse.tasks import open_task
from lfm_tasks.step import Input, Outcome
from tests.experts import train_experts
from tests.tuned import Context

QUICK = {"steps": 12, "step_size": 0.05, "check_every": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Input]:
    return train_experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture
def learning(inputs, tmp_path) -> Learning:
    base = step.open_checkpoint(inputs["base"])
    models = [step.open_checkpoint(inputs[f"models.{place}"]).inside(base) for place in (0, 1)]
    tasks = [open_task(inputs[f"models.{place}"], models[place], inputs[f"datasets.{place}"], "validation") for place in (0, 1)]
    planned = plan(base, models, METHODS["adamerging"].function)
    return Learning(base, models, planned, tasks, 0, Context(tmp_path / "work"))


def merged(inputs, work, context=None, method="adamerging", **options) -> Outcome:
    config = MergeConfig(method=method, options=QUICK | options, split="validation")
    return step.run(config, inputs, context or Context(work))


@pytest.mark.parametrize("density", [1.0, 0.4], ids=["whole", "trimmed"])
def test_the_gradient_is_that_of_autograd_through_the_merge(learning, density):
    """fusion-bench's LayerWiseMergedModel: theta_0 + sum_t w[t, l] tau[t, l], one l for each tensor, one backward for each task."""
    deltas, sparsify = {}, {}
    for name in learning.merged:
        base, models = learning.base.read(name), [model.read(name) for model in learning.models]
        sparsify[name] = trimmed(thresholds(base, models, density))
        deltas[name] = torch.stack([model - base for model in models])
        if density < 1:
            shape = deltas[name].shape
            deltas[name] = sparsify[name](slice(None), deltas[name].flatten(1)).view(shape)
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(len(deltas), 2, generator=generator).requires_grad_()
    batches = [next(task.stream(6, seed=4)) for task in learning.tasks]
    graph = {name: learning.base.read(name) + torch.einsum("t,t...->...", values[place], deltas[name]) for place, name in enumerate(deltas)}
    expected = [entropy(task.logits(graph, batch)).mean() for task, batch in zip(learning.tasks, batches, strict=True)]
    sum(expected).backward()

    ours = Merged(learning, sparsify if density < 1 else None)
    ours.remake(values.detach())
    for name, tensor in graph.items():
        torch.testing.assert_close(ours.leaves[name], tensor, atol=1e-6, rtol=1e-6)
    assert descend(ours, learning.tasks, batches) == pytest.approx([float(loss.detach()) for loss in expected], abs=1e-6)
    gradient = ours.by_coefficients()
    torch.testing.assert_close(gradient.float(), values.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(shared(gradient, values[:1]), values.grad.sum(0, keepdim=True), atol=1e-6, rtol=1e-5)
    assert gradient.abs().max() > 1e-2


def test_the_gradient_is_the_slope_of_the_loss(learning):
    ours, values = Merged(learning), torch.full((1, 2), 0.4)
    batches = [next(task.stream(48, seed=0)) for task in learning.tasks]

    def loss(values):
        ours.remake(values.expand(len(ours.names), -1))
        return sum(descend(ours, learning.tasks, batches))

    loss(values)
    gradient = ours.by_coefficients().sum(0)
    for place in (0, 1):
        moved = torch.zeros(1, 2)
        moved[0, place] = 5e-3
        assert (loss(values + moved) - loss(values - moved)) / 1e-2 == pytest.approx(float(gradient[place]), rel=1e-2, abs=1e-4)


def test_what_is_kept_is_the_donors_in_every_task(inputs, learning):
    planned = plan(learning.base, learning.models, METHODS["adamerging"].function, ["embeddings.*"])
    kept = Learning(learning.base, learning.models, planned, learning.tasks, 0, learning.context)
    given = Merged(kept).given
    name = "embeddings.word_embeddings.weight"
    assert name not in kept.merged and torch.equal(given[name], learning.base.read(name))
    assert given.keys() == learning.base.tensors.keys()


@pytest.mark.parametrize("method", ["adamerging", "concrete_adamerging"])
@pytest.mark.parametrize("stopped", [3, 20])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(inputs, tmp_path, method, stopped):
    """Stopped while the first stage learns, at the seam of the two stages or of learning and merging, and while tensors are merged."""
    options = {"steps": 6, "batch_size": 7, "on_collapse": "revert"} | ({"mask_steps": 6} if "concrete" in method else {"steps": 12})

    class Stopping(Context):
        def report(self, done, total, metrics=None):
            super().report(done, total, metrics)
            if done == stopped:
                raise AttemptKilled("Stopped on request.")

    whole = merged(inputs, tmp_path / "whole", method=method, **options)
    says = "steps of learning are kept" if stopped <= 12 else "tensors are kept"
    with pytest.raises(AttemptKilled, match=f"{says}; the same job goes on from there"):
        merged(inputs, tmp_path / "again", Stopping(tmp_path / "again"), method=method, **options)
    shutil.rmtree(tmp_path / "again")
    context = Context(tmp_path / "again")
    resumed = merged(inputs, tmp_path / "again", context, method=method, **options)
    assert context.reports[0][0] == stopped + 1
    paths = [outcome.outputs["model"].path / "model.safetensors" for outcome in (whole, resumed)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert whole.summary == resumed.summary
    assert [path.read_bytes() for path in whole.figures] == [path.read_bytes() for path in resumed.figures]
    same = whole.metrics.keys() - {"cpu_seconds", "peak_memory_bytes"}
    assert {name: whole.metrics[name] for name in same} == {name: resumed.metrics[name] for name in same}


def test_the_result_is_the_learnt_coefficients_formula(inputs, learning, tmp_path):
    context = Context(tmp_path / "run")
    outcome = merged(inputs, tmp_path / "run", context)
    table = json.loads(next(path for path in outcome.figures if path.suffix == ".json").read_text())
    result = load_file(outcome.outputs["model"].path / "model.safetensors")
    for name, row in table["coefficients"].items():
        base = learning.base.read(name).double()
        expected = base + sum(one * (model.read(name) - base) for one, model in zip(row, learning.models, strict=True))
        torch.testing.assert_close(result[name].double(), expected, atol=1e-6, rtol=1e-6)
    assert {"loss", "entropy/models.0", "entropy/models.1"} <= context.reports[0][2].keys()
    assert [done for done, _, _ in context.reports] == list(range(1, 12 + len(result) + 1))


def test_coefficients_stay_between_0_and_1_where_they_are_to(inputs, tmp_path):
    outcome = merged(inputs, tmp_path / "run", bounded=True, step_size=0.5, granularity="task", coefficient=0.9, steps=4)
    table = json.loads(next(path for path in outcome.figures if path.suffix == ".json").read_text())
    (row,) = table["coefficients"].values()
    assert all(0 <= one <= 1 for one in row) and any(one in (0, 1) for one in row)


def test_it_makes_predictions_surer_and_more_often_right(inputs, tmp_path):
    before, after = [], []
    for seed in (0, 1, 2):
        one = inputs if seed == 0 else train_experts(tmp_path / f"experts{seed}", seed)
        outcome = merged(one, tmp_path / f"work{seed}")
        plain = step.run(
            MergeConfig(method="task_arithmetic", options={"scale": 0.3}), without_data(one), Context(tmp_path / f"plain{seed}")
        )
        before.append(accuracy(plain, one))
        after.append(accuracy(outcome, one))
        for place in (0, 1):
            assert outcome.metrics[f"entropy_end/models.{place}"] < outcome.metrics[f"entropy_start/models.{place}"]
    assert sum(after) >= sum(before) + 0.03
    assert sum(before) / 3 < 0.97


def without_data(inputs):
    return {name: one for name, one in inputs.items() if not name.startswith("datasets")}


def accuracy(outcome: Outcome, inputs) -> float:
    """Mean over the tasks, each with its own head."""
    result, right = Input("merged", "model", "0" * 64, outcome.outputs["model"].path), []
    for place in (0, 1):
        rows = read_rows(inputs[f"datasets.{place}"].path, "validation")
        batch = make_batch(rows, range(len(rows)), 0)
        with torch.no_grad():
            predicted = forward(open_with_head(result, inputs[f"models.{place}"]), batch).argmax(-1)
        right.append(float((predicted == batch["target"]).double().mean()))
    return sum(right) / 2


def test_a_look_counts_by_hand(learning):
    watch = Watch(learning.tasks)
    assert [look.agreement for look in watch.own] == [1.0, 1.0]
    assert watch.own[1].marginal_entropy == pytest.approx(torch.tensor(2.0).log().item(), abs=0.02)
    flat = watch.look({name: torch.zeros_like(learning.base.read(name)) for name in learning.merged})
    assert all(look.top_share == 1 for look in flat)
    collapsed, lower = Look(0.1, 0.2, 0.9, 0.5), Look(0.1, 0.1, 1.0, 0.5)
    assert [one.task for one in watch.collapses(5, watch.own, [collapsed, watch.own[1]])] == [learning.tasks[0].name]
    assert not watch.collapses(5, [lower, lower], [collapsed, collapsed]), "A merge that began lower is not collapsing."
    left, surer = Look(0.1, 0.65, 0.5, 0.75), Look(0.1, 0.65, 0.5, 0.85)
    (drift,) = watch.drifts(5, [look := Look(0.5, 0.65, 0.5, 0.9), look], [surer, left])
    assert (drift.task, drift.agreement, drift.agreement_at_start) == (learning.tasks[1].name, 0.75, 0.9)
    assert not watch.drifts(5, watch.own, [collapsed, watch.own[1]]), "What has collapsed is told once."


@pytest.fixture(scope="module")
def biased(inputs, tmp_path_factory) -> dict[str, Input]:
    """The second task's head prefers its first class: from the base on, the entropy falls fastest where every row gets that class."""
    directory = tmp_path_factory.mktemp("biased") / "model"
    shutil.copytree(inputs["models.1"].path, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["classifier.bias"][0] += 1
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return inputs | {"models.1": replace(inputs["models.1"], path=directory, sha256="9" * 64)}


@pytest.mark.parametrize("reaction", ["warn", "revert"])
def test_a_task_that_drifts_from_its_own_model_is_seen_and_answered(inputs, tmp_path, monkeypatch, reaction):
    """Coefficients far too large for the task vectors: the predictions grow surer and other ones, of both classes."""
    monkeypatch.setattr("lfm_tasks.reuse.entropy.LEFT", 0.0)
    context = Context(tmp_path / "run")
    outcome = merged(inputs, tmp_path / "run", context, coefficient=1.0, step_size=2.0, on_collapse=reaction)
    assert any("drifts at step" in line for line in context.lines)
    if reaction == "revert":
        assert outcome.summary["learning"]["warnings"] == [] and outcome.metrics["drifted_tasks"] == 0
    else:
        drifts = outcome.summary["learning"]["warnings"]
        assert {one["kind"] for one in drifts} == {"drift"} and outcome.metrics["drifted_tasks"] == len(drifts) > 0
        assert all(one["agreement"] < one["agreement_at_start"] - 0.1 for one in drifts)


@pytest.mark.parametrize("reaction", ["warn", "stop", "revert"])
def test_a_task_that_collapses_is_seen_and_answered(biased, tmp_path, monkeypatch, reaction):
    monkeypatch.setattr("lfm_tasks.reuse.entropy.FALL", 1.0)  # no drift, which both tasks show on the way
    context = Context(tmp_path / "run")
    outcome = merged(biased, tmp_path / "run", context, coefficient=0.0, on_collapse=reaction)
    assert any(line.startswith("Warning: The task of model has collapsed at step") for line in context.lines)
    learning, metrics = outcome.summary["learning"], outcome.metrics
    if reaction == "revert":
        assert learning["warnings"] == [] and metrics["collapsed_tasks"] == 0
        assert metrics["marginal_entropy_end/models.1"] > 0.3
    else:
        (warning,) = learning["warnings"]
        assert warning["kind"] == "collapse" and warning["marginal_entropy"] < 0.5 * warning["marginal_entropy_of_own_model"]
        assert warning["top_share"] > 0.9 and metrics["collapsed_tasks"] == 1
    if reaction == "warn":
        assert learning["learning_steps"] == 12
    else:
        assert any(f"(on_collapse={reaction})" in line for line in context.lines)
