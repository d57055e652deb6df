"""Soups chosen by labelled rows: against a greedy soup of stock models, and the laws."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from lfm_tasks.errors import AttemptKilled, ConfigError, DataError, IncompatibleModels
from lfm_tasks.models.forward import forward, make_batch
from lfm_tasks.models.opening import open_classifier
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.learning import Learning
from lfm_tasks.reuse.methods.soups import LEARNED_SOUP, _mixed, slopes
from lfm_tasks.reuse.plan import plan
from lfm_tasks.reuse.scoring import Scorer
from lfm_tasks.reuse.tasks import open_one_task
from lfm_tasks.step import Input
from tests.prepared import write_labelled, write_texts
from tests.toys import make_bert
from tests.tuned import Context, StoppingAt

LABELS = ["business", "sport", "tech"]
COUNT = 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Input]:
    """Four classifiers around one, the further the worse, and rows of their task."""
    root = tmp_path_factory.mktemp("soups")
    make_bert(root / "0", labels=LABELS, seed=5)
    for place in range(1, COUNT):
        shutil.copytree(root / "0", root / str(place))
        tensors, generator = load_file(root / "0" / "model.safetensors"), torch.Generator().manual_seed(place)
        noisy = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
        save_file(noisy, root / str(place) / "model.safetensors", {"format": "pt"})
    rows = write_labelled(root / "rows", root / "0", count=40, labels=LABELS)
    models = {f"models.{place}": Input(str(place), "model", f"{place}" * 64, root / str(place)) for place in range(COUNT)}
    return models | {"datasets.0": Input("rows", "dataset", "d" * 64, rows)}


def cooked(inputs, work: Path, method: str = "greedy_soup", context: Context | None = None, **options) -> dict[str, torch.Tensor]:
    outcome = step.run(MergeConfig(method=method, options=options), inputs, context or Context(work))
    return load_file(outcome.outputs["model"].path / "model.safetensors")


def measured(tensors, inputs, name: str = "accuracy") -> float:
    """Row by row, by the model that transformers makes of the tensors."""
    model, rows = open_classifier(inputs["models.0"]), read_rows(inputs["datasets.0"].path, "validation")
    model.load_state_dict(tensors)
    with torch.inference_mode():
        logits = torch.cat([forward(model, make_batch(rows, [place], 0)) for place in range(len(rows))])
    target = torch.tensor(rows.columns["label"])
    return float((logits.argmax(-1) == target).double().mean() if name == "accuracy" else -cross_entropy(logits, target))


@pytest.mark.parametrize("name", ["accuracy", "log_likelihood"])
def test_greedy_is_the_papers_recipe_and_never_worse_than_the_best(inputs, tmp_path, name):
    singles = [load_file(inputs[f"models.{place}"].path / "model.safetensors") for place in range(COUNT)]
    alone = [measured(one, inputs, name) for one in singles]
    order = sorted(range(COUNT), key=lambda place: (-alone[place], place))
    kept, best = order[:1], max(alone)
    for place in order[1:]:
        found = measured(mean([singles[one] for one in [*kept, place]]), inputs, name)
        if found >= best:
            kept, best = [*kept, place], found
    context = Context(tmp_path / "work")
    soup = cooked(inputs, tmp_path / "work", context=context, score=name)
    for tensor, expected in zip(soup.values(), mean([singles[one] for one in kept]).values(), strict=True):
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-6)
    assert measured(soup, inputs, name) == pytest.approx(best, abs=1e-6) and best >= max(alone)
    steps = 2 * COUNT - 1 + len(soup)
    assert [(done, total) for done, total, _ in context.reports] == [(done, steps) for done in range(1, steps + 1)]
    assert sum("kept" in line or "left out" in line for line in context.lines) == COUNT - 1


def mean(models):
    return {name: sum(model[name].double() for model in models).div(len(models)).float() for name in models[0]}


@pytest.mark.parametrize(("method", "options"), [("greedy_soup", {}), ("learned_soup", {}), ("learned_soup", {"soup_weights": "tensor"})])
def test_laws_of_soups(inputs, tmp_path, method, options):
    """The order of the models does not matter; copies of one model are that model."""
    options = options | ({"passes": 1} if method == "learned_soup" else {})
    turned = inputs | {f"models.{place}": inputs[f"models.{COUNT - 1 - place}"] for place in range(COUNT)}
    first, second = (cooked(given, tmp_path / name, method, **options) for name, given in (("a", inputs), ("b", turned)))
    same = cooked(inputs | {f"models.{place}": inputs["models.1"] for place in range(COUNT)}, tmp_path / "same", method, **options)
    own = load_file(inputs["models.1"].path / "model.safetensors")
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(same[name], own[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["greedy_soup", "learned_soup"])
@pytest.mark.parametrize("stopped", [2, 7, 9])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(inputs, tmp_path, method, stopped):
    """Stopped among the scores or steps, at the seam, and while tensors are merged."""
    options = {"passes": 1, "rows_per_step": 1} if method == "learned_soup" else {}
    whole = cooked(inputs, tmp_path / "whole", method, **options)
    with pytest.raises(AttemptKilled, match="kept; the same job goes on from there"):
        cooked(inputs, tmp_path / "again", method, StoppingAt(tmp_path / "again", stopped), **options)
    context = Context(tmp_path / "again")
    resumed = cooked(inputs, tmp_path / "again", method, context, **options)
    assert context.reports[0][0] == stopped + 1
    assert whole.keys() == resumed.keys() and all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def learning_of(inputs, tmp_path) -> Learning:
    sources = [inputs[f"models.{place}"] for place in range(COUNT)]
    models = [Checkpoint(one.reference, one.sha256, one.path) for one in sources]
    task = open_one_task("A test", sources, models, [inputs["datasets.0"]], "validation")
    return Learning(None, models, plan(None, models, LEARNED_SOUP), [task], 0, Context(tmp_path / "work"))


def test_contracted_gradients_are_autograds(inputs, tmp_path):
    learning = learning_of(inputs, tmp_path)
    task, batch, names = learning.tasks[0], next(learning.tasks[0].stream(16, 0)), sorted(learning.merged)
    rows = {name: place for place, name in enumerate(names)}
    weights = torch.rand(len(names), COUNT, dtype=torch.float64).softmax(-1).requires_grad_()
    tensors = {name: tensor.requires_grad_() for name, tensor in _mixed(learning, rows, weights.detach()).items()}
    cross_entropy(task.logits(tensors, batch), batch["target"]).backward()
    whole = {name: sum(weights[rows[name], i] * model.read(name) for i, model in enumerate(learning.models)).float() for name in names}
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    cross_entropy(functional_call(task.module, whole, kwargs=asked).logits, batch["target"]).backward()
    torch.testing.assert_close(slopes(learning, rows, tensors, weights.detach()), weights.grad, atol=1e-6, rtol=1e-4)


def test_learning_lowers_the_loss_and_weights_stay_an_average(inputs, tmp_path):
    learning = learning_of(inputs, tmp_path)
    learnt = LEARNED_SOUP.learn(learning, MergeConfig(method="learned_soup", options={"passes": 15}).method_config())
    weights = next(iter(learnt.tensors.values()))
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()
    rows, score = dict.fromkeys(learnt.tensors, 0), Scorer(learning.tasks[0])
    equal = score(_mixed(learning, rows, torch.full((1, COUNT), 1 / COUNT)))
    assert score(_mixed(learning, rows, weights[None])).log_likelihood > equal.log_likelihood + 0.001, equal


def test_what_is_no_soup_is_refused(inputs, tmp_path):
    twice = inputs | {"datasets.1": inputs["datasets.0"]}
    with pytest.raises(ConfigError, match="greedy_soup is for models that were tuned on one task; 2 of the input 'datasets'"):
        cooked(twice, tmp_path / "work")
    make_bert(tmp_path / "other", labels=["no", "yes", "maybe"])
    other = inputs | {"models.1": Input("other", "model", "9" * 64, tmp_path / "other")}
    with pytest.raises(IncompatibleModels, match="other tells the classes no, yes, maybe apart"):
        cooked(other, tmp_path / "work")
    make_bert(tmp_path / "bare")
    with pytest.raises(IncompatibleModels, match="merges the heads too, and the base has none. Leave the input 'base' out"):
        cooked(inputs | {"base": Input("bare", "model", "8" * 64, tmp_path / "bare")}, tmp_path / "work")


def test_plain_text_has_nothing_to_score(inputs, tmp_path):
    write_texts(tmp_path / "texts", inputs["models.0"].path)
    learning = learning_of(inputs, tmp_path)
    task = learning.tasks[0].__class__(**vars(learning.tasks[0]) | {"rows": read_rows(tmp_path / "texts", "validation")})
    with pytest.raises(DataError, match="The rows for 0 are plain text without answers"):
        Scorer(task)
