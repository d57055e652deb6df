"""What the form refuses before anything runs."""

from __future__ import annotations

import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.errors import ConfigError


def config(**values):
    return parse_config(PrepareConfig, values)


@pytest.mark.parametrize("field", ["prompt_template", "completion_template", "system_prompt"])
@pytest.mark.parametrize("code", ["{{ config }}", "{% for x in y %}", "{# note #}", "${HOME}"])
def test_template_code_is_refused(field, code):
    with pytest.raises(ConfigError, match=rf"{field}.*template code is not run. Write {{column}}"):
        config(**{field: f"{code} {{text}}"})


def test_column_names_hold_no_braces():
    with pytest.raises(ConfigError, match="text_column"):
        config(text_column="{{ text }}")


def test_json_in_a_prompt_is_plain_text():
    assert config(prompt_template='{"question": {"q": "{text}"}}').prompt_columns == ["text"]


@pytest.mark.parametrize("field", ["prompt_template", "completion_template"])
def test_template_without_a_column(field):
    with pytest.raises(ConfigError, match=f"{field} names no column"):
        config(**{field: "always the same"})


def test_choices_need_the_label_alone():
    with pytest.raises(ConfigError, match="may name {label} only, not answer"):
        config(completion_template=" {label} {answer}")
    assert config(completion_template=" {answer}", label_choices=False).columns == ["text", "answer"]


def test_fractions_are_at_most_one_together():
    with pytest.raises(ConfigError, match="0.6 and test_fraction 0.5 are more than 1 together"):
        config(validation_fraction=0.6, test_fraction=0.5)


@pytest.mark.parametrize(
    "values", [{"max_length": 7}, {"max_length": 8193}, {"seed": -1}, {"max_train_samples": 0}, {"task": "translation"}]
)
def test_bounds(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        config(**values)


def test_every_field_has_a_description_and_a_section():
    for name, entry in PrepareConfig.model_fields.items():
        assert entry.description, name
        assert entry.json_schema_extra["section"], name
