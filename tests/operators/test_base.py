"""How an operator reads what an untrusted person typed into a form."""

from __future__ import annotations

import pytest

from lfm_tasks.errors import ConfigError
from lfm_tasks.operators.base import check_params, fill


def test_a_param_fills_its_place_and_is_not_interpreted_further():
    params = {"data": "{model} {{ var.value.secret }}", "model": "starter://x"}
    assert fill("{data}", params) == "{model} {{ var.value.secret }}"
    assert fill("models:/{model}@champion", params) == "models:/starter://x@champion"


def test_an_empty_param_leaves_nothing():
    assert fill("{general}", {"general": None}) == ""


def test_a_reference_to_an_undeclared_param_is_refused():
    with pytest.raises(ConfigError, match="Unknown Param 'dat'. Did you mean 'data'"):
        fill("{dat}", {"data": "x"})


def test_unknown_keys_of_a_trigger_are_refused():
    with pytest.raises(ConfigError, match=r"Unknown Param 'evil'.*Allowed: rank"):
        check_params({"rank": 8, "evil": "../../x"}, {"rank": None})
