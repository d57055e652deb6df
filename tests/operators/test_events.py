"""What is announced when a step made something, and what is evaluated then."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from lfm_tasks.assets import MODEL, NEW_DATASET, NEW_MODEL
from lfm_tasks.errors import ConfigError
from lfm_tasks.operators import TuneOperator
from lfm_tasks.operators.events import announce
from lfm_tasks.operators.produced import events_of, of_events, of_form
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.steps import STEPS

MADE = {"adapter": "sha256:" + "a" * 64, "model": "sha256:" + "b" * 64}


class Outlets(defaultdict):
    """Keeps what is added, as Airflow's accessor does."""

    def __init__(self):
        super().__init__(lambda: self)
        self.added = []

    def add(self, asset, extra):
        self.added.append((asset.name, extra))


def announced(outlets, step="tune", cache="miss", outputs=MADE):
    events = Outlets()
    result = JobResult(state="success", outputs=outputs, cache=cache, record="r" * 64, run_id="m-1")
    announce({"outlet_events": events}, outlets, STEPS[step], Job(step=step, config={"method": "lora"}), result)
    return events.added


def test_each_model_and_adapter_is_an_event_that_says_what_it_is():
    adapter, model = (extra for _, extra in announced([NEW_MODEL]))
    assert {name for name, _ in announced([NEW_MODEL])} == {MODEL.name}
    assert model == {
        "sha256": "b" * 64,
        "kind": "model",
        "step": "tune",
        "method": "lora",
        "record": "r" * 64,
        "run_id": "m-1",
        "merged": None,
    }
    assert (adapter["kind"], adapter["merged"]) == ("adapter", MADE["model"])


def test_a_cache_hit_an_undeclared_outlet_and_a_report_announce_nothing():
    assert announced([NEW_MODEL], cache="hit") == announced([]) == announced([NEW_DATASET]) == []
    assert announced([NEW_MODEL], "evaluate", outputs={"report": "sha256:" + "c" * 64}) == []
    assert [name for name, _ in announced([NEW_DATASET], "prepare", outputs={"dataset": "sha256:" + "c" * 64})] == ["lfm_dataset"]


def test_models_along_a_training_are_handed_on_and_not_announced():
    along = {f"{name}.{place}": "sha256:" + f"{place}" * 64 for name in ("checkpoints", "adapter_checkpoints") for place in (0, 1)}
    assert announced([NEW_MODEL], outputs=MADE | along) == announced([NEW_MODEL])
    pushed = {}
    context = {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))}
    result = JobResult(state="success", outputs=MADE | along)
    TuneOperator(task_id="tune").hand_on(context, Job(step="tune"), result)
    assert pushed["checkpoints"] == [along["checkpoints.0"], along["checkpoints.1"]] and pushed["model"] == MADE["model"]
    assert STEPS["tune"].output_kind("adapter_checkpoints.1") == "adapter"


def test_every_event_is_evaluated_on_the_data_of_its_own_record_and_each_model_once():
    records = {"1": {"inputs": {"dataset": {"sha256": "d1"}}}, "2": {"inputs": {"dataset": {"sha256": "d2"}}}, "3": {"inputs": {}}}
    events = [
        {"sha256": "a", "record": "1"},
        {"sha256": "b", "record": "2"},
        {"sha256": "a", "record": "1"},
        {"sha256": "c", "record": "3"},
    ]
    events += [{"sha256": "e", "record": "1", "kind": "adapter", "merged": "sha256:a"}, {"sha256": "f"}]
    found, left_out = of_events(events, records.__getitem__)
    assert found == [{"model": "sha256:a", "dataset": "sha256:d1"}, {"model": "sha256:b", "dataset": "sha256:d2"}]
    assert len(left_out) == 3 and "model sha256:c was made without a prepared data set" in left_out[0]


def test_events_that_came_while_the_run_was_queued_are_not_lost():
    def event(minute, sha256):
        return SimpleNamespace(timestamp=datetime(2026, 11, 24, 12, minute, tzinfo=UTC), extra={"sha256": sha256})

    class Inlet(list):
        def after(self, time):
            return [one for one in self if one.timestamp >= datetime.fromisoformat(time)]

    known = Inlet([event(1, "old"), event(2, "a"), event(3, "b")])
    context = {"triggering_asset_events": {MODEL: [known[1]]}, "inlet_events": {MODEL: known}}
    assert [extra["sha256"] for extra in events_of(context)] == ["a", "a", "b"]
    assert events_of(context | {"triggering_asset_events": {}}) == []


@pytest.mark.parametrize(("params", "dataset"), [({"model": None}, "sha256:d"), ({"model": "starter://x"}, "")])
def test_the_form_needs_both(params, dataset):
    with pytest.raises(ConfigError, match="Give a model and data to evaluate it on"):
        of_form(params, dataset)
