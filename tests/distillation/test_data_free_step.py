"""The step distill_data_free: what is chosen, what it costs, what it refuses, and that it looks at no data."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForImageClassification, BertConfig, BertForSequenceClassification

from lfm_tasks.distillation.data_free import distill, learning
from lfm_tasks.distillation.data_free.config import DistillDataFreeConfig
from lfm_tasks.distillation.data_free.guard import RealDataOpened, no_data
from lfm_tasks.distillation.data_free.teachers import BlackBox, QueryMeter
from lfm_tasks.errors import BudgetSpent, IncompatibleModels, InvalidInput, NonFiniteLoss
from lfm_tasks.models.images import image_space
from lfm_tasks.models.prepared import read_rows
from tests.images import LABELS, MEAN, STD, accuracy, toy, trained, write
from tests.tuned import Context

SMALL = {"rounds": 4, "images": 32, "student_steps": 3, "width": 4, "latent": 8}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifiers")
    return {"teacher": write(trained(), root / "teacher"), "student": write(toy(seed=5), root / "student")}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than distilling a toy."""
    monkeypatch.setattr("lfm_tasks.distillation.data_free.report.draw_images", lambda *_: None)


def config(method: str = "dafl", **values) -> DistillDataFreeConfig:
    options = SMALL | values.pop("options", {})
    return DistillDataFreeConfig(
        **{"method": method, "options": options, "batch_size": 16, "learning_rate": 0.02, "temperature": 4, **values}
    )


def state(path):
    return AutoModelForImageClassification.from_pretrained(path).state_dict()


def test_a_student_learns_what_no_data_showed_it(inputs, tmp_path, monkeypatch):
    """Of three classes a third is chance; the teacher knows them all."""
    monkeypatch.undo()
    chosen = config("dfad", options={"rounds": 30, "images": 48, "student_steps": 10, "width": 8})
    found = distill.run(chosen, inputs, Context(tmp_path / "work"))
    student = AutoModelForImageClassification.from_pretrained(found.outputs["model"].path)
    assert accuracy(toy(seed=5)) < 0.5 and accuracy(student) > 0.75
    assert (found.outputs["model"].path / "preprocessor_config.json").is_file() and student.config.id2label[2] == LABELS[2]
    assert (found.outputs["report"].path / "figures" / "images.png").stat().st_size > 1000


def test_the_chosen_student_is_the_best_on_the_held_out_images_and_no_other(inputs, tmp_path, monkeypatch):
    agreements = iter([0.2, 0.9, 0.2, 0.5, 0.9, 0.4, 0.9])
    monkeypatch.setattr(learning, "agreement", lambda *_: next(agreements))
    monkeypatch.setattr("lfm_tasks.distillation.data_free.report.agreement", lambda *_: 0.9)
    found = distill.run(config(evaluate_every=1, keep_last=4), inputs, Context(tmp_path / "work"))
    report = json.loads((found.outputs["report"].path / "report.json").read_text())
    assert (report["selected"], report["last"]) == ({"round": 2, "agreement": 0.9}, {"round": 4, "agreement": 0.4})
    assert report["criterion"] == "agreement with the teacher on held-out synthetic images" and report["checkpoint_rounds"] == [1, 2, 3, 4]
    chosen, along = state(found.outputs["model"].path), [state(found.outputs[f"checkpoints.{place}"].path) for place in range(4)]
    same = [all(torch.equal(chosen[name], one[name]) for name in chosen) for one in along]
    assert same == [False, True, False, False]


def test_what_it_cost_is_in_the_report(inputs, tmp_path):
    found = distill.run(config(), inputs, Context(tmp_path / "work"))
    assert found.metrics["teacher_queries"] == 4 * (16 + 32) and found.metrics["cpu_seconds"] > 0
    page = (tmp_path / "work" / "report.md").read_text()
    assert "Cost: 192 teacher queries," in page and "CPU seconds" in page and "| **selected** (output *model*) |" in page


def test_new_weights_do_not_depend_on_those_given(inputs, tmp_path):
    other = {**inputs, "student": write(toy(seed=6), tmp_path / "other")}
    found = [distill.run(config(student_weights="fresh"), one, Context(tmp_path / str(i))) for i, one in enumerate((inputs, other))]
    weights = [one.outputs["model"].path / "model.safetensors" for one in found]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("budget", [1, 7, 250])
def test_the_meter_stops_before_the_budget_is_passed(budget):
    asked = []
    box = BlackBox(lambda images: asked.append(len(images)) or torch.ones(len(images), 3) / 3, "probabilities", QueryMeter(budget))
    with pytest.raises(BudgetSpent, match=f"query_budget={budget}"):
        while True:
            box.answers(torch.zeros(3, 1, 2, 2))
    assert sum(asked) == box.meter.asked == budget // 3 * 3


@pytest.mark.parametrize("method", ["zeroth_order", "ideal"])
def test_the_learning_ends_where_the_query_budget_does(inputs, tmp_path, method):
    each = 32 + (32 if method == "zeroth_order" else 0)
    context = Context(tmp_path / "work")
    found = distill.run(config(method, options={"query_budget": 3 * each + 5, "generator_steps": 1}), inputs, context)
    assert found.metrics["rounds"] == 3 and 3 * each <= found.metrics["teacher_queries"] <= 3 * each + 5
    assert any("The learning ends after round 3 of 4: query_budget=" in line for line in context.lines)
    with pytest.raises(BudgetSpent, match="Raise it, or lower images and batch_size"):
        distill.run(config(method, options={"query_budget": 9}), inputs, Context(tmp_path / "none"))


def test_labels_alone_say_nothing_else():
    box = BlackBox(lambda images: torch.tensor([[0.1, 0.7, 0.2]]).expand(len(images), 3), "labels", QueryMeter())
    assert box.answers(torch.zeros(2, 1, 2, 2)).tolist() == [[0, 1, 0]] * 2


def test_a_loss_that_is_not_finite_stops_the_step(inputs, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"Round \d: the student's loss is nan. Lower learning_rate \(10.0\)"):
        distill.run(
            config("dfad", learning_rate=10, loss="kl", temperature=1000, options={"student_steps": 60}), inputs, Context(tmp_path / "work")
        )


class TestRefusals:
    def test_other_classes(self, inputs, tmp_path):
        other = toy(seed=5)
        other.config.id2label = {0: "a", 1: "b", 2: "c"}
        with pytest.raises(IncompatibleModels, match="tells 3 classes apart .a, b, c, ….*Give a student of the teacher's classes"):
            distill.run(config(), {**inputs, "student": write(other, tmp_path / "other")}, Context(tmp_path / "work"))

    def test_a_model_of_text(self, inputs, tmp_path):
        text = BertForSequenceClassification(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
        with pytest.raises(IncompatibleModels, match="saved as BertForSequenceClassification, which classifies no images"):
            distill.run(config(), {**inputs, "teacher": write(text, tmp_path / "text")}, Context(tmp_path / "work"))

    def test_images_of_unknown_size(self, inputs, tmp_path):
        teacher = write(toy(), tmp_path / "teacher", preprocessor=False)
        with pytest.raises(InvalidInput, match="Nothing in teacher says how large its images are. Add preprocessor_config.json"):
            distill.run(config(), {**inputs, "teacher": teacher}, Context(tmp_path / "work"))
        assert distill.run(config(image_size=8), {**inputs, "teacher": teacher}, Context(tmp_path / "given")).metrics["rounds"] == 4

    def test_a_student_for_other_images(self, inputs, tmp_path):
        with pytest.raises(IncompatibleModels, match="takes 1 channels of size 8, the teacher 1 of 12x12"):
            student = write(toy("vit"), tmp_path / "student")
            distill.run(config(image_size=12), {**inputs, "student": student}, Context(tmp_path / "work"))


class TestImageSpace:
    def test_bounds_follow_from_the_preprocessor(self, inputs):
        low, high = image_space(inputs["teacher"]).bounds()
        assert low.item() == pytest.approx(-MEAN / STD) and high.item() == pytest.approx((1 - MEAN) / STD)

    def test_without_one_the_range_is_the_normalised_one(self, tmp_path):
        low, high = image_space(write(toy(), tmp_path / "model", preprocessor=False), 8).bounds()
        assert (low.item(), high.item()) == (-1, 1)

    def test_bytes_that_are_not_rescaled(self, tmp_path):
        given = write(toy(), tmp_path / "model")
        content = {"do_rescale": False, "do_normalize": False, "size": {"shortest_edge": 8}}
        (given.path / "preprocessor_config.json").write_text(json.dumps(content))
        space = image_space(given)
        assert [bound.item() for bound in space.bounds()] == [0, 255] and (space.height, space.width) == (8, 8)
        assert space.visible(space.pixel_values(torch.full((1, 1, 8, 8), 51, dtype=torch.uint8))).mean().item() == pytest.approx(0.2)


class TestNoData:
    """The guard, and that the step runs inside it."""

    @pytest.fixture
    def dataset(self, tmp_path):
        directory = tmp_path / "dataset"
        directory.mkdir()
        pq.write_table(pa.table({"sample_id": ["a"], "input_ids": [[1]], "label": [0]}), directory / "test.parquet")
        (directory / "dataset.json").write_text(json.dumps({"task": "classification"}))
        (directory / "rows.csv").write_text("text\n")
        (directory / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"x"))
        return directory

    @pytest.mark.parametrize(
        "opens",
        [
            lambda path: read_rows(path, "test"),
            lambda path: pq.read_table(path / "test.parquet"),
            lambda path: pq.ParquetFile(path / "test.parquet"),
            lambda path: (path / "rows.csv").read_text(),
            lambda path: gzip.decompress((path / "train-images-idx3-ubyte.gz").read_bytes()),
            lambda path: torch.utils.data.DataLoader([1, 2]),
        ],
        ids=["prepared_rows", "read_table", "parquet_file", "csv", "idx", "data_loader"],
    )
    def test_a_data_set_that_is_opened_inside_raises(self, dataset, opens):
        opens(dataset)
        with no_data("distill_data_free"), pytest.raises(RealDataOpened, match="was opened while distill_data_free ran"):
            opens(dataset)
        opens(dataset)

    def test_the_step_is_inside(self, inputs, dataset, tmp_path, monkeypatch):
        def peeping(*args):
            read_rows(dataset, "test")

        monkeypatch.setattr(distill, "check_pair", peeping)
        with pytest.raises(RealDataOpened, match="dataset.json was opened while distill_data_free ran, which looks at no data"):
            distill.run(config(), inputs, Context(tmp_path / "work"))
        assert len(read_rows(dataset, "test")) == 1
