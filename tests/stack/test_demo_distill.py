"""The demo of distillation: what it asks of the DAG, and how it tells what came of it. The runs themselves: tests/dags/test_distill.py."""

from __future__ import annotations

import io

import jsonschema
import pytest
from rich.console import Console

from lfm_tasks.errors import ConfigError
from lfm_tasks.form import form_fields
from lfm_tasks.stack.demo_distill import DEFAULT_METHODS, choose, lines_of, params, table
from lfm_tasks.steps import STEPS

SOURCES = {"teacher", "student", "data", "general"}
ASKED = ("prepare", "cut_student", "distill", "evaluate", "judge_student", "gate", "promote")
KEPT = {"value": 0.8, "share": 0.95, "low": 0.9, "high": 1.0}
FOUND = {"kept": dict.fromkeys(("teacher", "before", "baseline", "student"), KEPT), "speedup": 1.9}
RECORDS = {"distill": {"metrics": {"cpu_seconds": 12.0}}, "baseline": {"metrics": {"cpu_seconds": 7.0}}}


@pytest.mark.parametrize("method", choose([]))
def test_every_value_fits_its_field_in_the_form(method):
    fields = {name: field for step in ASKED for name, field in form_fields(STEPS[step], step).items()}
    conf = params(method, "sha256:t")
    assert conf.keys() <= SOURCES | fields.keys()
    jsonschema.validate(conf, {"properties": fields})


def test_methods_of_text_alone_are_left_out():
    assert choose([]) == list(DEFAULT_METHODS) and choose(["dist"]) == ["dist"]
    with pytest.raises(ConfigError, match="Unknown method of make demo-distill 'minillm'.*Allowed: activations, decoupled"):
        choose(["minillm"])
    assert len({params(method, "t")["promote_model_name"] for method in DEFAULT_METHODS}) == len(DEFAULT_METHODS)


def test_the_table_has_those_that_are_compared_with_once():
    lines = lines_of("forward_kl", {**RECORDS, "gate": {"summary": {"outcome": "promote"}}}, FOUND, others=True)
    lines += lines_of("minilm_v2", RECORDS, FOUND, others=False)
    assert [line.get("gate") for line in lines] == [None, None, None, "promote", "not asked"]
    out = io.StringIO()
    Console(file=out, width=160).print(table(lines))
    shown = out.getvalue()
    assert "3 of its layers" in shown and shown.count("labels alone") == 1 and "7.0 s" in shown and shown.count("1.90") == 2
