"""Candidates are checked before anything runs; partitions fill references; forms propose what is known."""

from __future__ import annotations

import json

import pytest

from lfm_tasks.errors import ConfigError
from lfm_tasks.form import config_fields, config_values, form_fields, override
from lfm_tasks.operators.base import of_partition
from lfm_tasks.operators.params import reference_param, step_params, with_defaults
from lfm_tasks.operators.schedules import retrain_schedule
from lfm_tasks.operators.sweep import plan
from lfm_tasks.proposals import proposals, remember
from lfm_tasks.selection.config import SweepConfig
from lfm_tasks.settings import Settings
from lfm_tasks.steps import STEPS

TUNE = STEPS["tune"]
PARAMS = {name: schema["default"] for name, schema in form_fields(TUNE, "tune").items()}


def test_a_candidate_sets_fields_and_options_of_its_method():
    assert plan({**PARAMS, "sweep_grid": {"rank": [4, 8]}, "sweep_configs": []}) == [{"rank": 4}, {"rank": 8}]
    values = override(TUNE, config_values(TUNE, "tune", {**PARAMS, "tune_alpha": 8.0}), {"rank": 4, "epochs": 2})
    assert values["options"] == {"alpha": 8.0, "rank": 4} and values["epochs"] == 2


@pytest.mark.parametrize(
    ("grid", "messages"),
    [
        ({"rank": [4, 0]}, ["1 of 2 candidates cannot be tuned; nothing was started", "Candidate 2", "greater than or equal to 1"]),
        ({"method": ["bitfit"], "rank": [4]}, ["Unknown option 'rank'", "Allowed: norms"]),
        ({"learning_rate": [-1.0, "x"]}, ["2 of 2", "Candidate 1", "Candidate 2"]),
        ({"lerning_rate": [1.0]}, ["Did you mean 'learning_rate'", "Allowed: adam_beta1"]),
        ({"options": [None]}, ["Candidate 1"]),
    ],
    ids=str,
)
def test_every_candidate_that_cannot_be_tuned_is_named_with_what_is_allowed(grid, messages):
    with pytest.raises(ConfigError) as refused:
        plan({**PARAMS, "sweep_grid": grid})
    assert all(message in str(refused.value) for message in messages), refused.value


def test_the_form_of_a_sweep_says_what_it_is():
    for name, schema in config_fields(SweepConfig, "sweep", "Sweep").items():
        assert schema["description"] and schema["title"] and schema["section"] and schema["type"] in ("object", "array"), name


def test_a_partition_names_the_snapshot():
    assert of_partition("s3://b/rows/{partition}/", "2026-11-24") == "s3://b/rows/2026-11-24/"
    assert of_partition("s3://b/rows/", None) == "s3://b/rows/"
    with pytest.raises(ConfigError, match="names {partition}, but this run has no partition key"):
        of_partition("s3://b/{partition}", None)
    for bad in ("../x", "a/b", "a b", "x" * 300, "-x"):
        with pytest.raises(ConfigError, match="cannot be part of a reference"):
            of_partition("s3://b/{partition}", bad)


def test_a_partition_in_the_data_makes_the_schedule_one_of_partitions():
    assert type(retrain_schedule("s3://b/{partition}")).__name__ == "CronPartitionTimetable"
    assert type(retrain_schedule("s3://b/")).__name__ == "AssetOrTimeSchedule"


def test_other_defaults_are_checked_and_unknown_ones_refused():
    params = step_params("tune")
    changed = with_defaults(params, {"tune_rank": 4})["tune_rank"]
    assert (changed.value, changed.schema, changed.description) == (4, params["tune_rank"].schema, params["tune_rank"].description)
    with pytest.raises(ConfigError, match="Unknown Param 'tune_rnk'. Did you mean 'tune_rank'"):
        with_defaults(params, {"tune_rnk": 4})


def test_forms_propose_what_was_used_and_change_only_when_something_new_comes(home):
    places = Settings(home=home)
    remember(places, "data", ["file:///b", "starter://bbc-news"])
    remember(places, "data", ["file:///a"])
    first = proposals(places, "data")
    assert first[0].startswith("starter://") and first[-2:] == ["file:///a", "file:///b"]
    remember(places, "data", ["file:///b"])
    assert proposals(places, "data") == first
    remember(places, "names", ["topics"])
    assert step_params("promote")["promote_model_name"].schema["examples"] == ["topics"]
    assert "file:///a" in reference_param("data", "starter://bbc-news", "Data", "Rows.").schema["examples"]


def test_only_the_newest_are_kept_and_a_broken_file_is_no_obstacle(home):
    places = Settings(home=home)
    remember(places, "names", [f"m{i}" for i in range(50)])
    assert len(json.loads((home / "proposals.json").read_text())["names"]) == 30
    (home / "proposals.json").write_text("{")
    assert proposals(places, "names") == []
    remember(places, "names", ["m"])
    assert proposals(places, "names") == ["m"]
