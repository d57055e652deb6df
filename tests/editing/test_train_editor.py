"""The step train_editor, and what the steps edit, plan_edits and revise_edits make of its editors."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.editing import edit, planning, revise
from lfm_tasks.editing.config import EditConfig, ReviseEditsConfig
from lfm_tasks.editing.hyper import train
from lfm_tasks.editing.hyper.config import TrainEditorConfig
from lfm_tasks.errors import AttemptKilled, ConfigError, DataError, IncompatibleModels
from lfm_tasks.facts.reading import write_facts
from lfm_tasks.models.edits import read_edits
from lfm_tasks.models.opening import open_model
from lfm_tasks.models.statistics import read_statistics
from lfm_tasks.step import Input
from tests.editing.test_edit_step import adapter, digests
from tests.hyper_toys import QUICK, SCHOOL, SERAC
from tests.located import FACTS, make
from tests.tuned import Context, StoppingAt, model_input, write_dataset

WAYS = {"mend": QUICK, "malmen": QUICK, "serac": SERAC}
FEW = {"steps": 6, "every": 2}


def data(directory, facts) -> Input:
    write_facts(facts, directory)
    return Input(directory.name, "dataset", "f" * 64, directory)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Input]:
    root = tmp_path_factory.mktemp("inputs")
    model = model_input(make(root / "model", "llama"))
    return {"model": model, "facts": data(root / "school", SCHOOL)}


@pytest.fixture(scope="module")
def editors(inputs, tmp_path_factory) -> dict[str, Input]:
    """Of MEND and MALMEN, by the step."""
    made = {}
    for name in ("mend", "malmen"):
        outcome = train.run(config(name), inputs, Context(tmp_path_factory.mktemp(name) / "work"))
        made[name] = Input(name, "statistics", "5" * 64, outcome.outputs["editor"].path)
    return made


def config(name: str, **values) -> TrainEditorConfig:
    return TrainEditorConfig(method=f"{name}_editor", **{**WAYS[name], **FEW, **values})


@pytest.mark.parametrize("name", WAYS)
def test_a_killed_training_goes_on_with_the_same_bytes(name, inputs, tmp_path):
    whole = train.run(config(name), inputs, Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match="3 steps are kept; the same job goes on from there"):
        train.run(config(name), inputs, StoppingAt(tmp_path / "again", 3))
    context = Context(tmp_path / "again")
    resumed = train.run(config(name), inputs, context)
    assert "Resumed after step 3 of 6." in context.lines
    assert digests(resumed.outputs["editor"].path) == digests(whole.outputs["editor"].path)
    assert resumed.metrics["best_step"] == whole.metrics["best_step"] and whole.metrics["steps"] == 6


def test_an_editor_is_bound_to_its_base_and_says_what_it_saw(inputs, editors, tmp_path):
    found = read_statistics(editors["mend"])
    assert found.kind == "mend_editor" and found.description["model"] == inputs["model"].sha256
    assert len(found.description["subjects"]) == len(SCHOOL) and [one["step"] for one in found.description["looks"]] == [0, 2, 4, 6]
    other = Input("other", "model", "9" * 64, inputs["model"].path)
    given = {"model": other, "facts": data(tmp_path / "facts", FACTS), "editor": editors["mend"]}
    with pytest.raises(IncompatibleModels, match="was made from sha256:.*the edits' base is sha256:999.*by the step 'train_editor'"):
        edit.run(EditConfig(method="mend", guard="off"), given, Context(tmp_path / "work"))
    del given["editor"]
    with pytest.raises(ConfigError, match="make one by the step 'train_editor' with method=mend_editor"):
        edit.run(EditConfig(method="mend", guard="off"), given, Context(tmp_path / "work"))


def test_subjects_that_will_be_edited_are_left_out_and_said_where_they_were_not(inputs, editors, tmp_path):
    edited = data(tmp_path / "edited", SCHOOL[:4])
    outcome = train.run(config("mend", steps=1), {**inputs, "edited": edited}, Context(tmp_path / "a"))
    assert outcome.metrics["facts"] + outcome.metrics["facts_held_out"] == len(SCHOOL) - 4
    made = read_statistics(Input("editor", "statistics", "5" * 64, outcome.outputs["editor"].path))
    assert not {fact.subject for fact in SCHOOL[:4]} & set(made.description["subjects"])
    context = Context(tmp_path / "b")
    given = {"model": inputs["model"], "facts": edited, "editor": editors["mend"]}
    edit.run(EditConfig(method="mend", guard="off"), given, context)
    assert "The editor was trained on facts of 4 of the 4 subjects that are edited, which flatters it." in context.lines
    with pytest.raises(DataError, match="Give more training facts"):
        train.run(config("mend"), {**inputs, "edited": inputs["facts"]}, Context(tmp_path / "c"))


def test_general_text_is_what_edits_shall_leave_alone(inputs, tmp_path):
    rows = write_dataset(tmp_path / "rows", inputs["model"].path, "text")
    with_text, without = (
        train.run(config("mend"), inputs | more, Context(tmp_path / f"{len(more)}")).metrics for more in ({"general": rows}, {})
    )
    assert with_text["untrained/locality_loss"] != without["untrained/locality_loss"]


@pytest.mark.parametrize("name", ["mend", "malmen"])
def test_rounds_planning_export_and_forgetting_are_those_of_any_edit(name, inputs, editors, tmp_path):
    given = {"model": inputs["model"], "facts": data(tmp_path / "facts", FACTS), "editor": editors[name]}
    chosen = EditConfig(method=name, round_size=2, guard="off", save_lora=True, save_merged=True)
    outcome = edit.run(chosen, given, Context(tmp_path / "work"))
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    with torch.inference_mode():
        found = {kind: open_model(adapter(outcome, inputs["model"], kind))(ids).logits for kind in ("adapter", "lora")}
        merged = open_model(Input("model", "model", "d" * 64, outcome.outputs["model"].path))(ids).logits
        base = open_model(inputs["model"])(ids).logits
    assert torch.equal(found["adapter"], merged) and not torch.allclose(merged, base, atol=1e-3)
    torch.testing.assert_close(found["lora"], merged, atol=1e-3, rtol=1e-3)
    plan = planning.run(EditConfig(method=name, round_size=2), given, Context(tmp_path / "plan"))
    assert plan.summary["rounds"] == [2, 1] and plan.summary["problems"] == []
    last = FACTS[-1].id
    forget = ReviseEditsConfig(forget=[FACTS[0].id, last])
    revised = revise.run(forget, {"adapter": adapter(outcome, inputs["model"])}, Context(tmp_path / "revised"))
    assert [one.facts for one in read_edits(revised.outputs["adapter"].path)] == [("bank",)]
    alone = edit.run(EditConfig(method=name, guard="off"), given | {"facts": data(tmp_path / "alone", FACTS[1:2])}, Context(tmp_path / "o"))
    (one,), (other,) = (read_edits(each.outputs["adapter"].path) for each in (revised, alone))
    for change, expected in zip(one.changes, other.changes, strict=True):
        torch.testing.assert_close(change.stored, expected.stored, atol=1e-5, rtol=1e-3)
