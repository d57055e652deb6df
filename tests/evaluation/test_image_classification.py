"""The step evaluate on images: the same figures as the model's own logits give."""

from __future__ import annotations

import json

import pytest
import torch

from lfm_tasks.data.images import run as prepare
from lfm_tasks.data.images_config import PrepareImagesConfig
from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels
from lfm_tasks.evaluation import evaluate
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.step import Input
from tests.images import MEAN, STD, toy, trained, write, write_images
from tests.tuned import Context


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    made = prepare(PrepareImagesConfig(), {"data": write_images(root / "raw")}, Context(root / "work"))
    return {"model": write(trained(), root / "model"), "dataset": Input("images", "dataset", "e" * 64, made.outputs["dataset"].path)}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("lfm_tasks.evaluation.report.draw_group", lambda *_: [])


def test_accuracy_and_brier_score_are_those_of_the_models_logits(given, tmp_path):
    outcome = evaluate.run(EvaluateConfig(), given, Context(tmp_path / "work"))
    rows = read_rows(given["dataset"].path, "test")
    x = torch.stack([torch.frombuffer(bytearray(one), dtype=torch.uint8).reshape(1, 8, 8) for one in rows.columns["pixels"]])
    with torch.no_grad():
        logits = trained()(pixel_values=(x.float() / 255 - MEAN) / STD).logits.double()
    y = torch.tensor(rows.columns["label"])
    assert outcome.metrics["classification/accuracy"] == (logits.argmax(-1) == y).double().mean().item() > 0.9
    brier = (logits.softmax(-1) - torch.nn.functional.one_hot(y, 3)).square().sum(-1).mean().item()
    assert outcome.metrics["classification/brier"] == pytest.approx(brier, rel=1e-6)
    assert json.loads((outcome.outputs["report"].path / "metrics.json").read_text())["untrained_head"] is False


def test_what_does_not_fit_is_refused(given, tmp_path):
    other = toy()
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(IncompatibleModels, match="tells the classes a, b, c apart, in this order; the data set has left, middle, right"):
        evaluate.run(EvaluateConfig(), given | {"model": write(other, tmp_path / "other")}, Context(tmp_path / "work"))
    with pytest.raises(ConfigError, match="A classifier of images keeps its own head"):
        evaluate.run(EvaluateConfig(), given | {"head": given["model"]}, Context(tmp_path / "work"))
    with pytest.raises(DataError, match="The task 'classification' needs a data set of labelled text; this one is of kind 'images'"):
        evaluate.run(EvaluateConfig(tasks=["classification"]), given, Context(tmp_path / "work"))


def test_images_of_another_size_are_refused(given, tmp_path):
    made = prepare(PrepareImagesConfig(image_size=12), {"data": write_images(tmp_path / "raw")}, Context(tmp_path / "prepared"))
    large = Input("images", "dataset", "f" * 64, made.outputs["dataset"].path)
    with pytest.raises(IncompatibleModels, match="takes square images of 1 channels and size 8; those of the data set are 1 x 12 x 12"):
        evaluate.run(EvaluateConfig(), {"model": write(toy("vit"), tmp_path / "vit"), "dataset": large}, Context(tmp_path / "work"))


def test_generic_class_names_go_by_their_number(given, tmp_path):
    plain = trained()
    plain.config.id2label = {index: f"LABEL_{index}" for index in range(3)}
    found = evaluate.run(EvaluateConfig(), given | {"model": write(plain, tmp_path / "plain")}, Context(tmp_path / "work"))
    assert found.metrics["classification/accuracy"] > 0.9
