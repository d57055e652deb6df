"""Every distillation method on every kind of model, by the same tests: a new card is a new row."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.catalogue import methods_of
from lfm_tasks.distillation import distill
from lfm_tasks.distillation.config import DistillConfig
from lfm_tasks.errors import AttemptKilled, ConfigError
from lfm_tasks.models.opening import open_causal_lm, open_classifier, open_model
from lfm_tasks.step import Input
from lfm_tasks.training import report
from tests.distilled import config, decoders, encoders, given, prepared, strangers
from tests.mixed import files
from tests.tuned import LABELS, Context

TASKS = ("causal_lm", "classification")
NEEDED: dict[str, dict] = {}
SETTINGS: dict[str, dict] = {"minillm": {"on_policy": 1.0, "temperature": 1.0, "max_new_tokens": 6}}
STEPS = {"minillm": 60}
"""That the distance takes to fall: a gradient over drawn texts is noisier."""
cases = pytest.mark.parametrize(
    ("card", "task"),
    [(card, task) for card in methods_of("distill") for task in TASKS if task in card.tasks],
    ids=lambda value: getattr(value, "name", value),
)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    made = {"causal_lm": decoders, "classification": encoders, "teacher_dataset": strangers}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in made.items()}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than distilling a toy."""
    monkeypatch.setattr(report, "learning_curve", lambda *_: None)


def values(card, **more):
    return {"method": card.name, "options": NEEDED.get(card.name, {}), "alpha": 1.0} | SETTINGS.get(card.name, {}) | more


@cases
def test_a_student_that_is_its_teacher_has_no_loss(toys, tmp_path, card, task):
    one = toys[card.needs or task] | {"student": toys[card.needs or task]["teacher"]}
    if card.needs:
        one["dataset"] = one["teacher_dataset"]
    history = prepared(one, tmp_path / "w", task, max_steps=1, **values(card)).run().history
    assert abs(history[0]["loss"]) < 1e-4


@cases
def test_the_distance_falls(toys, tmp_path, card, task):
    losses = [
        entry["loss"]
        for entry in prepared(
            toys[card.needs or task], tmp_path / "w", task, max_steps=STEPS.get(card.name, 9), batch_size=16, **values(card)
        )
        .run()
        .history
        if "loss" in entry
    ]
    assert 0 < losses[-1] < 0.9 * losses[0]


@cases
def test_stopped_and_resumed_is_never_stopped_and_what_is_saved_is_the_student_alone(toys, tmp_path, card, task):
    settings = config(**values(card, max_steps=3, micro_batch_size=4, alpha=0.6, checkpoint_every=1))
    whole = distill.run(settings, given(toys[card.needs or task]), Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match="its checkpoint is kept"):
        distill.run(settings, given(toys[card.needs or task]), Context(tmp_path / "again", stop_at=2))
    resumed = distill.run(settings, given(toys[card.needs or task]), Context(tmp_path / "again"))
    assert files(resumed.outputs["model"].path) == files(whole.outputs["model"].path)
    saved = open_model(Input("saved", "model", "e" * 64, whole.outputs["model"].path))
    student = (
        open_causal_lm(toys[card.needs or task]["student"])
        if task == "causal_lm"
        else open_classifier(toys[card.needs or task]["student"], LABELS)
    )
    assert saved.state_dict().keys() == student.state_dict().keys()
    assert any(not torch.equal(one, student.state_dict()[name]) for name, one in saved.state_dict().items())


@cases
def test_the_card_says_what_it_is(card, task):
    assert card.area == "distillation" and "arXiv" in card.paper and card.title and card.preconditions and card.cost
    assert "logits" in card.access and "weights" not in card.access
    assert type(DistillConfig(**values(card)).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {card.name}: Unknown option 'nonsense'"):
        DistillConfig(method=card.name, options={"nonsense": 1})
