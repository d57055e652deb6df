"""The sweep over layers: scores by hand, a layer that cannot be reached loses, tasks of some layers each add up to one."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from lfm_tasks.editing import sweep, sweep_report
from lfm_tasks.editing.held_out import HELD_OUT
from lfm_tasks.editing.sweep import judged, score, try_all
from lfm_tasks.editing.sweep_config import ChooseEditLayerConfig, SweepEditLayersConfig
from lfm_tasks.editing.sweep_report import choose
from lfm_tasks.errors import AttemptKilled, ConfigError, DataError
from lfm_tasks.facts.reading import write_facts
from lfm_tasks.facts.record import Probe
from lfm_tasks.step import Input
from tests.editing.test_edit_step import given
from tests.guarded import FACTS, OPTIONS, equal, toy, weights
from tests.tuned import Context

KNOWN = [
    dataclasses.replace(
        fact,
        target_true="good" if place else "bad",
        paraphrases=(f"The {fact.text}",),
        neighbours=(Probe("Article: the minister", ("parliament",)),),
    )
    for place, fact in enumerate(FACTS[:3])
]
SEARCH = {name: value for name, value in OPTIONS.items() if name != "layers"}


def config(**values) -> SweepEditLayersConfig:
    return SweepEditLayersConfig(**{"method": "memit", "options": SEARCH} | values)


def text(editing):
    return [torch.tensor(editing.tokenizer(one)["input_ids"]) for one in HELD_OUT[:1]]


def tried(editing, **values):
    return try_all(editing, KNOWN, config(**values), text(editing), {"sweep": 1})


@pytest.mark.parametrize(
    ("shares", "ratio", "expected"),
    [
        ((1.0, 1.0, 1.0), 1.0, 1.0),
        ((1.0, 0.5, 0.25), 1.0, 3 / 7),
        ((1.0, None, 0.5), math.e, 2 / 3 - 0.5),
        ((1.0, 0.0, 1.0), 1.0, 0.0),
        ((1.0, None, None), 0.5, 1.0),
    ],
)
def test_a_score_is_the_harmonic_mean_less_what_text_lost(shares, ratio, expected):
    row = dict(zip(("success", "paraphrase", "neighbourhood"), shares, strict=True)) | {"perplexity_ratio": ratio}
    assert score(row, 0.5) == pytest.approx(expected)


def test_the_earliest_of_nearly_equal_layers_is_chosen():
    rows = [{"layer": layer, "score": value} for layer, value in ((1, 0.90), (2, 0.97), (3, 0.98), (3, 0.975))]
    assert [choose(rows, tolerance)["layer"] for tolerance in (0.0, 0.02, 0.1)] == [3, 2, 1]


def test_each_fact_is_edited_alone_and_the_model_is_as_before(tmp_path):
    editing = toy(tmp_path)
    before = weights(editing)
    rows = tried(editing, candidate_layers=[0, 2])
    assert equal(editing, before)
    assert [row["options"] for row in rows] == [{"layers": [0]}, {"layers": [2]}] and rows[1]["free"] == 1.0
    alone = [
        try_all(toy(tmp_path / str(place)), [fact], config(candidate_layers=[2]), text(editing), {})[0] for place, fact in enumerate(KNOWN)
    ]
    for name in ("success", "paraphrase", "neighbourhood", "relative_change"):
        assert rows[1][name] == pytest.approx(sum(row[name] for row in alone) / 3, rel=1e-3)
    assert rows[1]["perplexity_ratio"] == pytest.approx(math.prod(row["perplexity_ratio"] for row in alone) ** (1 / 3), rel=1e-3)


def test_what_other_options_do_not_change_is_found_once(tmp_path, monkeypatch):
    from lfm_tasks.editing import pipeline

    calls, inner = [], pipeline.find_targets
    monkeypatch.setattr(pipeline, "find_targets", lambda *args: calls.append(1) or inner(*args))
    rows = tried(toy(tmp_path), candidate_layers=[2], vary={"clamp": [10, 20], "ridge_share": [0.1, 10.0]})
    assert len(calls) == 2 and len(rows) == 4
    assert [row["options"]["ridge_share"] for row in rows] == [0.1, 10.0, 0.1, 10.0]
    assert rows[1]["relative_change"] < rows[0]["relative_change"]


def test_a_killed_sweep_goes_on_to_the_same_rows(tmp_path):
    whole = tried(toy(tmp_path / "whole"), candidate_layers=[0, 1, 2])
    editing = toy(tmp_path / "killed")

    def report(done, total, metrics=None):
        if metrics and done == 2:
            raise AttemptKilled("stopped")

    editing.context.report = report
    with pytest.raises(AttemptKilled):
        tried(editing, candidate_layers=[0, 1, 2])
    again = toy(tmp_path / "killed")
    assert tried(again, candidate_layers=[0, 1, 2]) == whole and "Resumed: 2 of 3 candidates were tried before." in again.context.lines


def test_questions_about_a_fact(tmp_path):
    found = judged(toy(tmp_path), KNOWN[0])
    assert {name: len(outcomes) for name, outcomes in found.items()} == {"success": 1, "paraphrase": 1, "neighbourhood": 1, "free": 1}
    edited = dataclasses.replace(KNOWN[0], neighbours=(Probe(KNOWN[0].text, ("x",)), Probe("The a", (KNOWN[0].target_new,))))
    assert judged(toy(tmp_path), edited)["neighbourhood"] == []


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    made = given(root, "llama")
    write_facts(KNOWN, root / "known")
    return made | {"facts": Input("known", "dataset", "k" * 64, root / "known")}


def test_tasks_of_some_layers_each_add_up_to_one_sweep(inputs, tmp_path):
    """Byte for byte, whatever the order of the tasks; the summary names the options of the layer, for a DAG to hand on."""
    options = SEARCH | {"steps": 5}
    whole = sweep.run(config(options=options, candidate_layers=[0, 1, 2, 3]), inputs, Context(tmp_path / "whole"))
    reports = {}
    for place, layers in enumerate(([2, 3], [0, 1])):
        outcome = sweep.run(config(options=options, candidate_layers=layers), inputs, Context(tmp_path / str(place)))
        reports[f"reports.{place}"] = Input(str(place), "report", str(place) * 64, outcome.outputs["report"].path)
    chosen = sweep_report.run(ChooseEditLayerConfig(), reports, Context(tmp_path / "chosen"))
    for name in ("sweep.json", "report.md", "figures/sweep.png"):
        assert (tmp_path / "chosen/report" / name).read_bytes() == (tmp_path / "whole/report" / name).read_bytes()
    best = chosen.summary["best"]
    assert chosen.summary == whole.summary and best["options"] == {"layers": [best["layer"]]}
    assert len(json.loads((tmp_path / "whole/report/sweep.json").read_text())["candidates"]) == 4


def test_a_shard_tries_every_so_manieth_layer(tmp_path):
    rows = [tried(toy(tmp_path / str(shard)), candidate_layers=[0, 1, 2], shards=2, shard=shard) for shard in range(2)]
    assert [[row["layer"] for row in some] for some in rows] == [[0, 2], [1]]
    with pytest.raises(ConfigError, match="shard 3 of 4: there are 3 candidate layers. Take fewer shards"):
        tried(toy(tmp_path / "many"), candidate_layers=[0, 1, 2], shards=4, shard=3)
    with pytest.raises(ConfigError, match="shard 2: with shards=2 it is 0 to 1"):
        config(shards=2, shard=2)


def test_the_layer_is_chosen_on_facts_that_are_not_edited_and_else_it_is_said(inputs, tmp_path):
    """Whatever its wording, what is about the subject of an edited fact counts as edited."""
    facts = [dataclasses.replace(KNOWN[0], id=str(place), subject=f"subject {place}") for place in range(9)]
    edited = [dataclasses.replace(fact, prompt="{} was", subject=fact.subject.upper()) for fact in facts]
    assert sweep.held_out(facts, [], 8) == (facts[:8], 0)
    assert sweep.held_out(facts, edited[:3], 8) == (facts[3:], 0)
    assert sweep.held_out(facts, edited[:7], 8) == ([*facts[7:], *facts[:2]], 2)
    assert sweep.held_out(facts, edited, 3) == (facts[:3], 3)

    write_facts(KNOWN[:1], tmp_path / "edited")
    given = inputs | {"edited": Input("edited", "dataset", "d" * 64, tmp_path / "edited")}
    context = Context(tmp_path / "work")
    outcome = sweep.run(config(options=SEARCH | {"steps": 2}, candidate_layers=[1]), given, context)
    assert outcome.summary["facts"] == {"tried": 3, "edited": 1}
    assert "1 of the 3 facts that the layer is chosen on are to be edited: there were too few others." in context.lines
    assert "3 facts, 1 of which are to be edited" in (tmp_path / "work/report/report.md").read_text()


def test_what_cannot_be_swept_is_refused(inputs, tmp_path):
    with pytest.raises(ConfigError, match="width=3: rome edits one layer"):
        SweepEditLayersConfig(method="rome", width=3)
    with pytest.raises(ConfigError, match="clump"):
        config(vary={"clump": [1.0]})
    with pytest.raises(ConfigError, match="2,000 candidates; at most 1,024"):
        config(candidate_layers=list(range(1000)), vary={"clamp": [1.0, 2.0]})
    with pytest.raises(ConfigError, match="layer 9: the model has the layers 0 to 3"):
        sweep.run(config(candidate_layers=[9]), inputs, Context(tmp_path / "a"))
    write_facts(FACTS, tmp_path / "facts")
    with pytest.raises(DataError, match="None of the 8 facts has a target_true"):
        sweep.run(config(), inputs | {"facts": Input("f", "dataset", "0" * 64, tmp_path / "facts")}, Context(tmp_path / "b"))
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="other has no sweep.json: it is the report of another step"):
        sweep_report.run(
            ChooseEditLayerConfig(), {"reports.0": Input("other", "report", "0" * 64, tmp_path / "other")}, Context(tmp_path / "c")
        )
    assert config(width=3).candidate(1, {})["layers"] == [0, 1] and config(width=2).candidate(3, {})["layers"] == [2, 3]
