"""Every card of the step distill_data_free, on toy networks of 8x8 images: the same laws for each."""

from __future__ import annotations

import json

import pytest
import torch

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.distillation.data_free import distill
from lfm_tasks.distillation.data_free.cards import WITHOUT_BATCH_NORM
from lfm_tasks.distillation.data_free.config import DistillDataFreeConfig
from lfm_tasks.distillation.data_free.synthesis import Setting
from lfm_tasks.distillation.data_free.teachers import BlackBox, WhiteBox, as_seen
from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels
from lfm_tasks.models.images import image_space
from tests.images import toy, trained, write
from tests.tuned import Context, StoppingAt

NAMES = [card.name for card in methods_of("distill_data_free")]
SMALL = {
    "deep_inversion": {"iterations": 4, "competition": 1.0},
    "cmi": {"iterations": 3},
    "fast": {"iterations": 3},
    "cake": {"iterations": 4},
}
ROUNDS = {"rounds": 3, "images": 24, "student_steps": 2}
methods = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than distilling a toy."""
    monkeypatch.setattr("lfm_tasks.distillation.data_free.report.draw_images", lambda *_: None)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifiers")
    return {"teacher": write(trained(), root / "teacher"), "student": write(toy(seed=5), root / "student")}


def options(name: str, **more) -> dict:
    known = METHODS[name].config_class.model_fields
    return (
        {key: value for key, value in {**ROUNDS, "width": 4, "latent": 8, "warmup_rounds": 1}.items() if key in known}
        | SMALL.get(name, {})
        | more
    )


def config(name: str, **values) -> DistillDataFreeConfig:
    chosen = options(name, **values.pop("options", {}))
    return DistillDataFreeConfig(
        **{"method": name, "options": chosen, "batch_size": 8, "learning_rate": 0.02, "evaluate_every": 2, **values}
    )


def synthesiser(name: str, teacher, student, space, **more):
    card = METHODS[name]
    setting = Setting(as_seen(teacher, card.access), student, space, 3, 8, 0, lambda: None)
    return card.function(setting, config(name, options=more).method_config())


def tensors(outcome, name: str = "model") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(outcome.outputs[name].path.rglob("*")) if path.is_file()}


@methods
def test_images_lie_in_the_domain_and_teacher_and_student_are_borrowed(inputs, name):
    teacher, student, space = trained(), toy(seed=5), image_space(inputs["teacher"])
    before = [{key: tensor.clone() for key, tensor in model.state_dict().items()} for model in (teacher, student)]
    hooks = [len(module._forward_pre_hooks) for module in teacher.modules()]
    made = synthesiser(name, teacher, student, space)
    low, high = space.bounds()
    for round in (0, 2):
        images = made.make(round)
        assert images.shape == (24, 1, 8, 8) and not images.requires_grad
        assert (images >= low).all() and (images <= high).all() and len(images.unique(dim=0)) == 24
    for model, copy in zip((teacher, student), before, strict=True):
        assert all(torch.equal(tensor, copy[key]) for key, tensor in model.state_dict().items())
        assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    assert [len(module._forward_pre_hooks) for module in teacher.modules()] == hooks


@methods
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(inputs, tmp_path, name, stopped=2):
    chosen = config(name, keep_last=2)
    whole = distill.run(chosen, inputs, Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match=f"{stopped} rounds are kept; the same job goes on from there"):
        distill.run(chosen, inputs, StoppingAt(tmp_path / "again", stopped))
    context = Context(tmp_path / "again")
    resumed = distill.run(chosen, inputs, context)
    assert f"Resumed: {stopped} rounds were done before." in context.lines
    assert [done for done, _, _ in context.reports] == list(range(stopped + 1, 4))
    assert whole.outputs.keys() == resumed.outputs.keys() == {"model", "report", "checkpoints.0", "checkpoints.1"}
    for output in whole.outputs:
        assert tensors(whole, output) == tensors(resumed, output)
    assert whole.metrics["teacher_queries"] == resumed.metrics["teacher_queries"]


@pytest.mark.parametrize("name", ["deep_inversion", "cmi", "cake"])
def test_a_stop_in_the_middle_of_a_rounds_images_costs_that_round_alone(inputs, tmp_path, name):
    whole = distill.run(config(name), inputs, Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match="Stopped on request. 1 rounds are kept"):
        distill.run(config(name), inputs, Context(tmp_path / "again", stop_at=config(name).options["iterations"] + 2))
    assert tensors(whole) == tensors(distill.run(config(name), inputs, Context(tmp_path / "again")))


@methods
def test_a_teacher_is_shown_as_its_card_says_and_every_image_is_counted(inputs, tmp_path, monkeypatch, name):
    asked = []

    def watched(model, access, budget=0):
        model.register_forward_hook(lambda _, given, kwargs, output: asked.append(len(kwargs["pixel_values"])), with_kwargs=True)
        found = as_seen(model, access, budget)
        answers = {"probabilities", "labels"} & set(access)
        assert isinstance(found, BlackBox) == bool(answers) and found.gives == (answers.pop() if answers else "logits")
        assert isinstance(found, WhiteBox) or not hasattr(found, "model")
        return found

    monkeypatch.setattr(distill, "as_seen", watched)
    outcome = distill.run(config(name), inputs, Context(tmp_path / "work"))
    report = json.loads((outcome.outputs["report"].path / "report.json").read_text())
    assert sum(asked) == outcome.metrics["teacher_queries"] == report["teacher_queries"] > 0


@methods
@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_teachers_without_batch_norm(tmp_path, name, kind):
    given = {"teacher": write(toy(kind), tmp_path / "teacher"), "student": write(toy(seed=5), tmp_path / "student")}
    chosen = config(name, options={"rounds": 1})
    if name in WITHOUT_BATCH_NORM:
        assert distill.run(chosen, given, Context(tmp_path / "work")).metrics["rounds"] == 1
        return
    with pytest.raises(IncompatibleModels, match="cannot be matched by batch norm: it is not there. Take one of the methods cake"):
        distill.run(chosen, given, Context(tmp_path / "work"))
    without = config(name, options={"rounds": 1, "batch_norm": 0})
    assert distill.run(without, given, Context(tmp_path / "without")).metrics["rounds"] == 1


@pytest.mark.parametrize("name", ["deep_inversion", "cmi", "fast"])
def test_the_student_is_looked_at_from_the_end_of_the_warm_up_on(inputs, name):
    """What is sought first is the teacher's data, not the place where a student that knows nothing is wrong."""
    space = image_space(inputs["teacher"])
    students = trained(seed=1), toy(seed=6)
    made = {round: [synthesiser(name, trained(), student, space, iterations=8).make(round) for student in students] for round in (0, 1)}
    assert torch.equal(*made[0]) and not torch.equal(*made[1])


@methods
def test_the_seed_decides(inputs, name):
    teacher, student, space = trained(), toy(seed=5), image_space(inputs["teacher"])
    first, second = (synthesiser(name, teacher, student, space).make(0) for _ in range(2))
    assert torch.equal(first, second)
    card, other = METHODS[name], Setting(as_seen(teacher, METHODS[name].access), student, space, 3, 8, 1, lambda: None)
    assert not torch.equal(first, card.function(other, config(name).method_config()).make(0))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("fast", {"options": {"meta": "reptile", "reset_first": False}}),
        ("dfad", {"options": {"distance": "kl"}, "loss": "l1"}),
        ("deep_inversion", {"optimizer": "adam", "pool_size": 10, "held_out": 2}),
    ],
    ids=["reptile", "zskt", "adamw"],
)
def test_other_options_move_the_student_otherwise(inputs, tmp_path, name, values):
    found = [distill.run(config(name, **one), inputs, Context(tmp_path / str(place))) for place, one in enumerate(({}, values))]
    assert tensors(found[0])["model.safetensors"] != tensors(found[1])["model.safetensors"]


@methods
def test_the_card_says_what_it_is(name):
    card = METHODS[name]
    assert card.area == "distillation" and card.title and card.preconditions and card.cost
    assert any(character.isdigit() for character in card.paper)
    assert ("weights" in card.access) == ("batch_norm" in card.config_class.model_fields) == (name not in WITHOUT_BATCH_NORM)
    assert type(DistillDataFreeConfig(method=name).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {name}: Unknown option 'nonsense'"):
        DistillDataFreeConfig(method=name, options={"nonsense": 1})
