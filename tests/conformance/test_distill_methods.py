"""Every distillation method on every kind of model, by the same tests: a new card is a new row."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.catalogue import methods_of
from lfm_tasks.distillation.config import DistillConfig
from lfm_tasks.errors import AttemptKilled, ConfigError
from tests.distilled import decoders, encoders, prepared, strangers

TASKS = ("causal_lm", "classification")
NEEDED: dict[str, dict] = {"tinybert": {"prediction": 0.0}}
SETTINGS: dict[str, dict] = {"minillm": {"on_policy": 1.0, "temperature": 1.0, "max_new_tokens": 6}}
STEPS = {"minillm": 60}
"""That the distance takes to fall: a gradient over drawn texts is noisier."""
RATES = {"tinybert": 0.1, "activations": 0.1, "minillm": 1e-2}
"""Learning rates: of methods whose distance is that of large numbers, and of that one."""
cases = pytest.mark.parametrize(
    ("card", "task"),
    [(card, task) for card in methods_of("distill") for task in TASKS if task in card.tasks],
    ids=lambda value: getattr(value, "name", value),
)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    made = {"causal_lm": decoders, "classification": encoders, "teacher_dataset": strangers}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in made.items()}


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
    rate, steps = RATES.get(card.name, 3e-2), STEPS.get(card.name, 6)
    losses = [
        entry["loss"]
        for entry in prepared(
            toys[card.needs or task], tmp_path / "w", task, max_steps=steps, batch_size=16, learning_rate=rate, **values(card)
        )
        .run()
        .history
        if "loss" in entry
    ]
    assert 0 < losses[-1] < 0.9 * losses[0]


@cases
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(toys, tmp_path, card, task):
    settings = values(card, max_steps=2, micro_batch_size=4, alpha=0.6, checkpoint_every=1)
    whole = prepared(toys[card.needs or task], tmp_path / "whole", task, **settings)
    whole.run()
    stopped = prepared(toys[card.needs or task], tmp_path / "again", task, **settings)
    stopped.context.stop_at = whole.context.polls - 1
    with pytest.raises(AttemptKilled, match="its checkpoint is kept"):
        stopped.run()
    resumed = prepared(toys[card.needs or task], tmp_path / "again", task, **settings)
    resumed.run()
    assert resumed.progress == whole.progress and any("Resumed" in line for line in resumed.context.lines)
    assert all(torch.equal(one, whole.parameters[name]) for name, one in resumed.parameters.items())


@cases
def test_the_card_says_what_it_is(card, task):
    assert card.area == "distillation" and "arXiv" in card.paper and card.title and card.preconditions and card.cost
    assert "logits" in card.access and "weights" not in card.access
    assert card.enough == (("text", "probabilities") if card.name in ("alm", "hybrid") else ())
    assert type(DistillConfig(**values(card)).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {card.name}: Unknown option 'nonsense'"):
        DistillConfig(method=card.name, options={"nonsense": 1})
