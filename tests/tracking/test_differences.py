"""What tells two models apart: one thing is changed at a time, and the difference names that and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tracking_records import make_record

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import InvalidInput
from lfm_tasks.settings import Settings
from lfm_tasks.tracking.differences import diff
from lfm_tasks.tracking.index import LineageIndex
from tests.reported import write_report

Commit = Callable[..., Artifact]


@pytest.fixture
def compare(store: Store, settings: Settings) -> Callable[..., dict[str, Any]]:
    def made(first: Artifact, second: Artifact, **options: Any) -> dict[str, Any]:
        index = LineageIndex(store)
        index.refresh()
        found = diff(store, index, first.sha256, second.sha256, downloads=settings.home / "downloads", **options)
        json.dumps(found, allow_nan=False)
        return found

    return made


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Callable[..., Artifact]:
    def made(scale: float, kind: str = "model") -> Artifact:
        directory = tmp_path / f"weights-{kind}-{scale}"
        directory.mkdir()
        save_file({"layers.0.weight": scale * torch.ones(2, 2)}, directory / "model.safetensors")
        return store.commit(directory, kind)  # type: ignore[arg-type]

    return made


def put(store: Store, step: str, inputs: dict[str, Artifact], outputs: dict[str, Artifact], **changes: Any) -> str:
    return store.put_record(make_record(step, inputs, outputs, **changes))


def report(store: Store, tmp_path: Path, model: Artifact, data: Artifact, correct: list[int]) -> None:
    """Commit an evaluation of ``model`` and its record."""
    made = store.commit(write_report(tmp_path / f"report-{model.sha256}-{data.sha256}", model.sha256, data.sha256, correct), "report")
    put(store, "evaluate", {"model": model, "dataset": data}, {"report": made}, number=5)


def test_a_model_does_not_differ_from_itself(store: Store, commit: Commit, model: Callable[..., Artifact], compare) -> None:
    one = model(1.0)
    put(store, "tune", {"dataset": commit("dataset", "d")}, {"model": one})
    found = compare(one, one)
    assert found["same"] and found["steps"] == found["data"] == []
    assert found["weights"]["relative"] == 0.0


def test_config_code_and_environment_that_differ_are_named_one_by_one(
    store: Store, commit: Commit, model: Callable[..., Artifact], compare
) -> None:
    data, one, other = commit("dataset", "d"), model(1.0), model(1.5)
    environment = {"sha256": "f" * 64, "python": "3.11", "packages": {"torch": "3", "peft": "1"}, "device": "cpu"}
    changes = {"config": {"rank": 16, "targets": ["q", "v"], "nested": {"lr": 0.2}}, "environment": environment, "method": "dora"}
    changes["code"] = {"sha256": "d" * 64, "git_commit": "def"}
    records = [put(store, "tune", {"dataset": data}, {"model": one}, method="lora")]
    records.append(put(store, "tune", {"dataset": data}, {"model": other}, number=2, **changes))
    found = compare(one, other)
    (step,) = found["steps"]
    assert (step["place"], step["first"]["record"], step["second"]["record"]) == ("model", *records)
    assert (step["first"]["method"], step["second"]["method"]) == ("lora", "dora")
    assert {(c["field"], c["first"], c["second"]) for c in step["config"]} == {
        ("rank", 8, 16),
        ("nested.lr", 0.1, 0.2),
        ("text", 'it\'s "quoted"', None),
    }
    assert step["code"] == {"first": {"sha256": "c" * 64, "git_commit": "abc"}, "second": {"sha256": "d" * 64, "git_commit": "def"}}
    assert {c["field"] for c in step["environment"]} == {"packages.torch", "packages.peft"}
    assert found["data"] == []
    assert found["weights"]["layers"] == [{"name": "layers.0", "relative": 0.5, "tensors": 1}]


def test_the_way_back_goes_on_as_far_as_the_makers_differ(store: Store, commit: Commit, model: Callable[..., Artifact], compare) -> None:
    raw, base, data, cut = commit("dataset", "raw"), commit("model", "base"), commit("dataset", "data"), commit("dataset", "cut")
    one, other = model(1.0), model(2.0)
    put(store, "prepare", {"data": raw, "model": base}, {"dataset": data}, number=1)
    put(store, "prepare", {"data": raw, "model": base}, {"dataset": cut}, number=2, config={"rank": 8, "max_length": 64})
    put(store, "tune", {"model": base, "dataset": data}, {"model": one}, number=3)
    put(store, "tune", {"model": base, "dataset": cut}, {"model": other}, number=4)
    found = compare(one, other, weights=False)
    assert [step["place"] for step in found["steps"]] == ["model", "model.dataset"]
    assert found["steps"][0]["config"] == []
    assert {"field": "max_length", "first": None, "second": 64} in found["steps"][1]["config"]
    assert [(entry["place"], entry["first"]["id"], entry["second"]["id"]) for entry in found["data"]] == [
        ("model.dataset", data.sha256, cut.sha256)
    ]
    assert found["weights"] is None


def test_metrics_on_the_same_samples_have_a_paired_difference_and_others_have_none(
    store: Store, tmp_path: Path, commit: Commit, model: Callable[..., Artifact], compare
) -> None:
    data, elsewhere, one, other = commit("dataset", "d"), commit("dataset", "e"), model(1.0), model(2.0)
    worse, better = [1, 0] * 50, [1, 0, 1, 1] * 25
    report(store, tmp_path, one, data, worse)
    report(store, tmp_path, other, data, better)
    report(store, tmp_path, other, elsewhere, better)
    entries = {(entry["dataset"], entry["name"]): entry for entry in compare(one, other, weights=False)["metrics"]}
    accuracy = entries[data.sha256, "choice/accuracy"]
    assert (accuracy["first"]["value"], accuracy["second"]["value"], accuracy["difference"]) == (0.5, 0.75, 0.25)
    # 25 of 100 pairs differ, all to one side: the interval of the mean difference is that of a share of 0.25.
    assert (accuracy["low"], accuracy["high"]) == pytest.approx((0.25 - 0.085, 0.25 + 0.085), abs=0.015)
    lonely = entries[elsewhere.sha256, "choice/accuracy"]
    assert (lonely["first"], lonely["second"]["value"], lonely["difference"]) == (None, 0.75, None)


def test_a_model_and_an_adapter_have_no_weights_in_common_and_a_data_set_is_refused(
    commit: Commit, model: Callable[..., Artifact], compare, store: Store
) -> None:
    one, adapter, data = model(1.0), model(1.0, "adapter"), commit("dataset", "d")
    put(store, "tune", {"model": one, "dataset": data}, {"adapter": adapter})
    assert "merge the adapter into its base first" in compare(one, adapter)["weights"]["not_compared"]
    with pytest.raises(InvalidInput, match="is a dataset; give two models or adapters"):
        compare(one, data)


def test_weights_that_were_collected_are_said_to_be_gone(store: Store, commit: Commit, model: Callable[..., Artifact], compare) -> None:
    one, other, data = model(1.0), model(2.0), commit("dataset", "d")
    for number, artifact in enumerate((one, other), start=1):
        put(store, "tune", {"dataset": data}, {"model": artifact}, number=number)
    store.backend.delete(f"artifacts/model/{one.sha256}")
    found = compare(one, other)
    assert "its record says what it was" in found["weights"]["not_compared"] and found["steps"]
