"""The step edit with its guards: what it measures, hands on, and writes beside the edits."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lfm_tasks.editing import edit
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.errors import DataError
from lfm_tasks.facts.reading import read_facts, write_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.edits import read_edits
from lfm_tasks.step import Input
from tests.editing.test_edit_step import adapter, given
from tests.guarded import FACTS, LOOSE, OPTIONS
from tests.tuned import Context, write_dataset

CHIP = Fact("chip", "chip", "The {} won three", "film", target_true="he")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("guarded")
    made = given(root, "llama")
    for name, facts in (("facts", FACTS[:4]), ("rest", FACTS[4:]), ("probe", [CHIP])):
        write_facts(facts, root / name)
    general = write_dataset(root / "general", made["model"].path, "text", rows=30)
    probe = Input("probe", "dataset", "b" * 64, root / "probe")
    return made | {"facts": Input("facts", "dataset", "a" * 64, root / "facts"), "general": general, "probe": probe}


def config(**values) -> EditConfig:
    limits = LOOSE | {"condition": 1e12, "perplexity": 50.0, "off": ["probe"]} | values.pop("guards", {})
    return EditConfig(**{"method": "memit", "options": OPTIONS, "round_size": 2, "guards": limits} | values)


def test_checks_are_metrics_and_notes_and_what_is_needed_later_lies_beside_the_edits(inputs, tmp_path):
    context = Context(tmp_path / "work")
    outcome = edit.run(config(), inputs, context)
    assert outcome.metrics["guard/efficacy"] == 1.0 and outcome.metrics["guard/retention"] == 1.0
    assert outcome.metrics["facts_quarantined"] == 0 and outcome.summary["quarantined"] == {}
    directory = outcome.outputs["adapter"].path
    notes = [one.note["guards"] for one in read_edits(directory)]
    names = [one["name"] for one in notes[1]]
    assert {"tokens", "condition", "target", "change", "efficacy", "retention", "perplexity"} <= set(names)
    assert [fact.id for fact in read_facts(directory)] == [fact.id for fact in FACTS[:4]]
    assert json.loads((directory / "quarantine.json").read_text()) == {}
    assert {"guard/efficacy", "quarantined"} <= context.reports[-1][2].keys()


def test_a_later_step_still_looks_after_the_facts_of_an_earlier_one(inputs, tmp_path):
    first = edit.run(config(), inputs, Context(tmp_path / "first"))
    rest = Input("rest", "dataset", "c" * 64, inputs["facts"].path.parent / "rest")
    on = inputs | {"facts": rest, "model": adapter(first, inputs["model"])}
    second = edit.run(config(), on, Context(tmp_path / "second"))
    assert "guard/retention" in second.metrics and second.summary["rounds_before"] == 2
    found = next(one for one in read_edits(second.outputs["adapter"].path)[2].note["guards"] if one["name"] == "retention")
    assert found["value"] == 1.0


def test_a_limit_that_is_missed_takes_the_rounds_back_or_only_warns(inputs, tmp_path):
    strict = {"change": 1e-6, "change_warn": 1e-6, "off": []}
    failed = edit.run(config(guards=strict), inputs, Context(tmp_path / "fail"))
    assert failed.summary["facts"] == 0 and failed.summary["quarantined"].keys() == {fact.id for fact in FACTS[:4]}
    kept = json.loads((failed.outputs["adapter"].path / "quarantine.json").read_text())
    assert kept == failed.summary["quarantined"] and kept["fox"]["reason"].startswith("change ") and kept["fox"]["nearest"] is None
    warned = edit.run(config(guards=strict, guard="warn"), inputs, Context(tmp_path / "warn"))
    assert warned.summary["facts"] == 4 and warned.metrics["guard_warnings"] >= 2 and warned.metrics["guard/probe"] == 1.0
    off = edit.run(config(guard="off"), inputs, Context(tmp_path / "off"))
    assert off.summary["facts"] == 4 and not any(name.startswith("guard/") for name in off.metrics)


def test_moments_that_no_fact_could_be_edited_with_stop_the_step(inputs, tmp_path):
    tight = config(guards={"tokens": 1e6, "tokens_warn": 2e6})
    with pytest.raises(DataError, match="The key moments cannot be used: tokens .* at least 1e\\+06 is allowed. Gather key moments"):
        edit.run(tight, inputs, Context(tmp_path / "work"))


def test_a_fact_that_is_edited_again_is_not_held_to_its_first_target(inputs, tmp_path):
    first = edit.run(config(), inputs, Context(tmp_path / "first"))
    write_facts([dataclasses.replace(FACTS[0], id="fox again", target_new="it")], tmp_path / "again")
    on = inputs | {"facts": Input("again", "dataset", "d" * 64, tmp_path / "again"), "model": adapter(first, inputs["model"])}
    second = edit.run(config(guards={"condition": 1e15}, options=OPTIONS | {"remember": False}), on, Context(tmp_path / "second"))
    assert second.summary["quarantined"] == {} and second.metrics["guard/retention"] == 1.0
