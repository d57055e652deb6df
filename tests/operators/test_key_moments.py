"""Statistics for edits: of the layers that the form names, and none for a method that needs none."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.operators import KeyMomentsOperator

FORM = {"edit_layer": None, "edit_layers": None}


@pytest.mark.parametrize(
    ("params", "layers"),
    [
        ({"edit_method": "memit", "edit_layers": [3, 4]}, [3, 4]),
        ({"edit_method": "memit", "edit_layer": 7}, None),
        ({"edit_method": "rome", "edit_layer": 7, "edit_layers": [3, 4]}, [7]),
        ({"edit_method": "rome", "edit_layer": -1}, None),
    ],
)
def test_the_layers_are_those_that_are_to_be_edited(params, layers):
    fixed = KeyMomentsOperator(task_id="statistics").fixed({"params": FORM | params})
    assert fixed.get("layers") == layers
    assert fixed["method"] == "key_moments"


def test_the_layers_are_those_that_are_tried_where_one_is_looked_for():
    tried = {"layers": "find", "sweep_edit_layers_candidate_layers": [2, 5], "sweep_edit_layers_width": 2, "edit_method": "memit"}
    fixed = KeyMomentsOperator(task_id="statistics", config={"shard": 1}).fixed({"params": FORM | tried})
    assert (fixed["layers"], fixed["shard"]) == ([1, 2, 4, 5], 1)
    none = FORM | tried | {"sweep_edit_layers_candidate_layers": []}
    assert "layers" not in KeyMomentsOperator(task_id="statistics").fixed({"params": none})


def test_a_method_without_statistics_skips_them():
    with pytest.raises(AirflowSkipException, match="ft_m needs no second moments of keys"):
        KeyMomentsOperator(task_id="statistics").job({"params": FORM | {"edit_method": "ft_m"}})
