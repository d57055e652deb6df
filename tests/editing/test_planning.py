"""A dry run: what it foresees is what the edit then does, every conflict is named at once, and nothing is changed."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lfm_tasks.editing import edit, planning
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.facts.reading import fact_row
from lfm_tasks.step import Input
from tests.editing.test_edit_step import digests, given
from tests.located import FACTS
from tests.tuned import Context


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return given(tmp_path_factory.mktemp("plan"), "llama")


def config(**values) -> EditConfig:
    options = {"layers": [0, 2], "steps": 4, "prefixes": 0, "openings": False}
    return EditConfig(**{"method": "memit", "options": options, "round_size": 2, "guard": "off"} | values)


def test_rounds_layers_ranks_and_bytes_are_those_of_the_edit(inputs, tmp_path):
    before = digests(inputs["model"].path)
    planned = planning.run(config(), inputs, Context(tmp_path / "plan"))
    done = edit.run(config(), inputs, Context(tmp_path / "edit"))
    assert planned.summary["rounds"] == [2, 1] and planned.summary["layers"] == [0, 2] and planned.summary["ranks"] == [3, 3]
    assert planned.summary["bytes"][0] == 4 * done.metrics["numbers_kept"] == planned.summary["bytes"][1]
    assert planned.summary["problems"] == [] and planned.metrics["cpu_seconds"] > 0
    assert digests(inputs["model"].path) == before
    assert "3 facts in 2 rounds" in planned.figures[0].read_text()


def test_with_two_keys_the_plan_is_a_range_around_the_edit(inputs, tmp_path):
    options = {"layers": [1], "steps": 2, "prefixes": 1, "openings": False}
    planned = planning.run(config(options=options), inputs, Context(tmp_path / "plan")).summary["bytes"]
    done = edit.run(config(options=options), inputs, Context(tmp_path / "edit")).metrics["numbers_kept"]
    assert planned[0] <= 4 * done <= planned[1] == 2 * planned[0]
    with_openings = planning.run(config(options=options | {"openings": True}), inputs, Context(tmp_path / "openings")).summary["bytes"]
    assert with_openings == [planned[0], 3 * planned[0]]


def test_every_conflict_is_named_and_the_others_are_planned(inputs, tmp_path):
    other = dataclasses.replace(FACTS[0], id="again", target_new="fair")
    lost = dataclasses.replace(FACTS[1], id="lost", prompt="Nobody raised", subject="central bank")
    long = dataclasses.replace(FACTS[2], id="long", prompt="word " * 600 + "{} is", subject="a dog")
    (tmp_path / "facts").mkdir()
    rows = [json.dumps(fact_row(fact)) for fact in (*FACTS, other, lost, long)]
    (tmp_path / "facts" / "facts.jsonl").write_text("\n".join(rows))
    found = planning.run(config(), inputs | {"facts": Input("f", "dataset", "0" * 64, tmp_path / "facts")}, Context(tmp_path / "work"))
    assert found.summary["facts"] == 3 and len(found.summary["problems"]) == 3
    conflict, nowhere, too_long = found.summary["problems"]
    assert "conflict with facts.jsonl, line 1" in conflict and "{} 0 times" in nowhere and "Fact long:" in too_long
    assert "## 3 problems" in found.figures[0].read_text()
