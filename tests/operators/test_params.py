"""The form, made from the typed configs, and the way back."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError
from lfm_tasks.form import config_values, form_fields
from lfm_tasks.steps import STEPS

STEP_NAMES = STEPS.names()


@pytest.mark.parametrize("name", STEP_NAMES)
def test_every_field_of_the_form_says_what_it_is(name):
    for field, schema in form_fields(STEPS[name], name).items():
        assert schema["description"], field
        assert schema["title"], field
        assert schema["section"], field
        assert "type" in schema or "enum" in schema, field


@pytest.mark.parametrize("name", STEP_NAMES)
def test_the_forms_defaults_fit_their_own_schema_and_give_the_configs_defaults(name):
    step = STEPS[name]
    fields = form_fields(step, name)
    params = {}
    for field, schema in fields.items():
        if "default" in schema:
            jsonschema.validate(schema["default"], {key: value for key, value in schema.items() if key != "default"})
            params[field] = schema["default"]
    required = {key for key, info in step.config_class.model_fields.items() if info.is_required()}
    values = config_values(step, name, params)
    assert required.isdisjoint(values)
    examples = {"model_name": "example", "slices": [{"layers": [0, 1]}]}
    given = {key: examples[key] for key in required}
    assert parse_config(step.config_class, values | given) == parse_config(step.config_class, given)


def test_a_default_for_a_field_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="Unknown field of step tune 'learning_rat'. Did you mean 'learning_rate'"):
        form_fields(STEPS["tune"], "tune", {"learning_rat": 1})


def test_the_method_field_offers_the_cards():
    fields = form_fields(STEPS["tune"], "tune")
    assert {"full", "lora", "dora", "rslora", "bitfit"} <= set(fields["tune_method"]["enum"])
    assert fields["tune_method"]["values_display"]["lora"] != "lora"


def test_a_form_may_offer_some_of_the_methods_with_options_of_theirs_alone():
    fields, every = (form_fields(STEPS["distill"], "d", {"method": "alm"}, methods=methods) for methods in (["alm", "hybrid"], []))
    assert fields["d_method"]["enum"] == ["alm", "hybrid"] == list(fields["d_method"]["values_display"])
    assert fields["d_chunk_temperature"] == every["d_chunk_temperature"]
    assert {"d_skew", "d_beta", "d_relation_heads"} <= every.keys() - fields.keys() and fields.keys() < every.keys()
    with pytest.raises(ConfigError, match="Unknown method of step distill 'hybird'. Did you mean 'hybrid'"):
        form_fields(STEPS["distill"], "d", methods=["alm", "hybird"])


def test_an_option_of_another_method_is_refused_with_those_that_belong():
    step = STEPS["tune"]
    params = {name: schema["default"] for name, schema in form_fields(step, "tune").items()}
    params |= {"tune_method": "bitfit", "tune_rank": 8}
    with pytest.raises(ConfigError, match="rank"):
        parse_config(step.config_class, config_values(step, "tune", params))


def test_forms_import_nothing_heavy():
    heavy = {"torch", "transformers", "peft", "mlflow", "boto3", "pandas", "numpy", "pyarrow", "datasets"}
    code = (
        "import sys, json\n"
        "from lfm_tasks.form import form_fields\nfrom lfm_tasks.steps import STEPS\n"
        "[form_fields(step, step.name) for step in STEPS]\n"
        f"print(json.dumps(sorted({heavy!r} & set(sys.modules))))"
    )
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) == []


@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_form_can_be_sent_as_it_opens(name):
    """Airflow's form asks for every text that may not be null, so a text that may be empty must be able to be null."""
    for field, schema in form_fields(STEPS[name], name).items():
        assert schema.get("default") != "", field
        if isinstance(schema.get("default"), str) and "\n" in schema["default"]:
            assert schema["format"] == "multiline", field
