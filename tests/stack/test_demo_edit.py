"""The demo of edits: what it plans, and how it tells what came of it. The runs themselves are those of tests/dags/test_edit.py."""

from __future__ import annotations

import io
import json
import math
from itertools import chain

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ConfigError
from lfm_tasks.facts.reading import parse_fact, write_facts
from lfm_tasks.form import form_fields
from lfm_tasks.operators.editing import FIND
from lfm_tasks.settings import Settings
from lfm_tasks.stack.demo_edit import DEFAULT_METHODS, SWEEP, alone, choose, demo_edit, found_layer, keep_sweep, known_rows, plans
from lfm_tasks.stack.edited import METRICS, UNEDITED, Edited, by_age, edited, one_line_each, table, unedited
from lfm_tasks.stack.edited_figure import draw
from lfm_tasks.steps import STEPS

ROW = {"id": "capital-france", "subject": "France", "prompt": "The capital of {} is", "target_new": "Rome", "target_true": "Paris"}
SOURCES = {"model", "facts", "corpus", "general", "layers"}
ASKED = ("import_facts", "train_editor", "sweep_edit_layers", "edit", "evaluate_edits", "gate", "promote")


def test_a_method_of_single_facts_is_not_asked_for_all_at_once():
    assert [(plan.way, plan.conf["edit_round_size"]) for plan in plans("memit", 12)] == [("at once", 0), ("in rounds", 3)]
    assert [(plan.way, plan.conf["edit_round_size"]) for plan in plans("rome", 12)] == [("in rounds", 1)]


def test_a_fact_alone_is_typed_in():
    (plan,) = alone("ft_m", [ROW])
    assert plan.conf["facts"] is plan.conf["general"] is None and plan.conf["import_facts_facts"] == [ROW]
    assert "editor" not in plan.conf
    (plan,) = alone("mend", [ROW], "sha256:" + "a" * 64)
    assert plan.conf["editor"] == "sha256:" + "a" * 64, "another would be trained for a single fact"


def test_a_layer_is_found_for_the_first_method_that_writes_into_layers(store, tmp_path):
    assert [(plan.method, plan.conf["edit_round_size"]) for plan in found_layer(["ft_m", "rome", "memit"], 12)] == [("ft_m", 0)]
    assert [(plan.method, plan.conf["edit_round_size"]) for plan in found_layer(["mend", "rome"], 12)] == [("rome", 1)]
    assert list(found_layer(["mend"], 12)) == []
    assert SWEEP["layers"] == FIND, "the form's own word"
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "figures" / "sweep.png").write_bytes(b"picture")
    record = {"outputs": {"report": {"sha256": store.commit(tmp_path / "report", "report").sha256}}}
    keep_sweep(store, record, tmp_path)
    assert (tmp_path / "demo" / "edit-layers.png").read_bytes() == b"picture"


@pytest.mark.parametrize("method", choose(["all"]))
def test_every_value_fits_its_field_in_the_form(method):
    fields = {name: field for step in ASKED for name, field in form_fields(STEPS[step], step).items()}
    for plan in chain(plans(method, 8), alone(method, [ROW]), found_layer([method], 8)):
        assert plan.conf.keys() <= SOURCES | fields.keys()
        jsonschema.validate(plan.conf, {"properties": fields})


def test_no_edit_is_measured_against_another_one_s_champion():
    names = [
        plan.conf["promote_model_name"]
        for method in choose(["all"])
        for plan in chain(plans(method, 8), alone(method, [ROW]), found_layer([method], 8))
    ]
    assert len(set(names)) == len(names)


def test_methods_whose_edit_is_not_in_the_weights_are_left_out():
    assert choose([]) == list(DEFAULT_METHODS)
    assert {"rome", "pmet", "ultraedit"} < set(choose(["all"])) and not {"grace", "wise", "ike"} & set(choose(["all"]))
    with pytest.raises(ConfigError, match="Unknown method of make demo-edit 'grace'.*Allowed: all, alphaedit, emmet"):
        choose(["grace"])


def test_a_sequence_of_one_round_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="facts 3: a sequence of rounds of 3 takes at least 4"):
        demo_edit(Settings(home=tmp_path), count=3)


def test_ages_count_from_the_last_round():
    assert by_age([True, False, True, True, False], 2) == [0.0, 1.0, 0.5]
    line = Edited("memit", "in rounds", 5, {}, by_age([True, False, True, True, False], 2))
    assert line.retention == 0.75
    assert Edited("memit", "at once", 2, {}, by_age([True, False], 2)).retention is None


@pytest.fixture
def store(tmp_path):
    return Store.open(f"file://{tmp_path}/store")


def report(store, tmp_path, said, value):
    """The record of an evaluation in which every metric is ``value``; no general text was given."""
    directory = tmp_path / f"report-{value}"
    directory.mkdir()
    metrics = {name: {"value": value} for name in METRICS.values() if name != "general/perplexity"}
    (directory / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    pq.write_table(pa.table({"id": [str(place) for place in range(len(said))], "prefix_match": said}), directory / "facts.parquet")
    return {"outputs": {"report": {"sha256": store.commit(directory, "report").sha256}}}


def test_lines_are_read_from_records_and_reports(store, tmp_path):
    records = {
        "evaluate_base": report(store, tmp_path, [False] * 4, 0.125),
        "evaluate_challenger": report(store, tmp_path, [True, False, True, True], 0.5),
        "edit": {"metrics": {"cpu_seconds": 2.5, "peak_memory_bytes": 2**30}},
    }
    base, line = unedited(store, records), edited(store, records, "memit", "in rounds", 2)
    assert (base.name, base.facts, base.metrics["success"], base.cpu_seconds) == (UNEDITED, 4, 0.125, None)
    assert (line.name, line.facts, line.by_age, line.retention) == ("MEMIT, in rounds", 4, [1.0, 0.5], 0.5)
    assert line.metrics == dict.fromkeys(("success", "paraphrase", "neighbourhood", "says it"), 0.5)
    assert edited(store, records, "memit", "at once", 0).by_age == [0.75]


def test_known_facts_are_typed_in_as_they_were_written(store, tmp_path):
    facts = [parse_fact(ROW), parse_fact(ROW | {"id": "capital-cote", "subject": "Côte d’Ivoire", "target_true": "Yamoussoukro"})]
    write_facts(facts, tmp_path / "known")
    record = {"outputs": {"known": {"sha256": store.commit(tmp_path / "known", "dataset").sha256}}}
    assert [parse_fact(row) for row in known_rows(store, record)] == facts


LINES = [
    Edited(UNEDITED, "", 4, {"success": 0.0, "neighbourhood": 1.0, "perplexity": 80.0}),
    Edited("rome", "in rounds", 4, {"success": 1.0, "neighbourhood": 0.75, "perplexity": 81.0}, [1.0, 0.5, 0.25, 0.0], 8.0, 2**30),
    Edited("rome", "alone", 1, {"success": 1.0, "neighbourhood": 1.0, "perplexity": 80.0}, [1.0], 2.0, 2**29),
    Edited("rome", "alone", 1, {"success": 0.0, "neighbourhood": 0.5}, [0.0], 3.0, 2**30),
]


def test_facts_written_alone_are_one_line():
    *others, line = one_line_each(LINES)
    assert others == LINES[:2]
    assert (line.facts, line.cpu_seconds, line.peak_memory_bytes) == (2, 5.0, 2**30)
    assert line.metrics == {"success": 0.5, "neighbourhood": 0.75}


def test_table_leaves_open_what_was_not_measured():
    file = io.StringIO()
    Console(file=file, width=160).print(table(one_line_each(LINES)))
    shown = [[cell.strip() for cell in row.strip("│").split("│")] for row in file.getvalue().splitlines() if row.startswith("│")]
    assert shown == [
        ["unedited", "4", "0%", "", "100%", "", "80.0", "", "", ""],
        ["ROME, in rounds", "4", "100%", "", "75%", "", "81.0", "25%", "8.0 s", "1,024 MB"],
        ["ROME, alone", "2", "50%", "", "75%", "", "", "", "5.0 s", "1,024 MB"],
    ]


def test_pictures_hold_each_line_once():
    points, curves = draw(one_line_each(LINES)).axes
    assert [tuple(map(float, line.get_xydata()[0])) for line in points.lines] == [(1.0, 0.0), (0.75, 1.0), (0.75, 0.5)]
    (curve,) = curves.lines
    assert curve.get_ydata().tolist() == [1.0, 0.5, 0.25, 0.0]
    assert math.isclose(curves.get_ylim()[1], 1.03)
