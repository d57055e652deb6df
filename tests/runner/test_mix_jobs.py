"""A mixture from the command line to MLflow: evaluated by its address, told apart from models that stock clients open, unloaded."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.cli import main
from lfm_tasks.settings import settings
from tests.mixed import CLASSES, encoders
from tests.prepared import write_labelled


@pytest.fixture
def place(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LFM_ALLOWED_PREFIXES", f"file://{tmp_path}")
    settings.cache_clear()
    encoders(tmp_path)
    return tmp_path


@pytest.fixture
def run(place, capsys):
    """``lfm run`` with references; says what came out."""

    def start(step: str, **given):
        words = []
        for name, values in given.items():
            words += ["--" + name.replace("_", "-"), *([values] if isinstance(values, str) else values)]
        assert main(["run", step, *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return start


def test_a_mixture_is_an_artifact_like_others_and_says_that_it_is_no_plain_model(place, run):
    given = {"models": [f"file://{place}/expert{n}" for n in (1, 2)], "base": f"file://{place}/base"}
    made = run("mix", **given, rank="4")
    assert run("mix", **given, rank="4")["cache"] == "hit"
    store = Store.open(settings().store)
    files = {file.path for file in found(store, made["outputs"]["model"]).manifest.files}
    assert {"base.safetensors", "experts.safetensors", "lfm_mixture.json", "config.json", "tokenizer.json"} <= files
    assert not [name for name in files if name in ("MLmodel", "model.safetensors") or name.startswith("components")]
    data = write_labelled(place / "rows", place / "base", labels=CLASSES[1])
    report = run("evaluate", model=made["outputs"]["model"], dataset=store_data(store, data), head=f"file://{place}/expert2")
    assert 0 <= report["metrics"]["classification/accuracy"] <= 1
    client = MlflowClient(settings().tracking_uri)
    logged = client.search_logged_models([one.experiment_id for one in client.search_experiments()])
    kinds = {model.tags["lfm.sha256"]: model.tags.get("lfm.mixture") for model in logged if model.tags["lfm.kind"] == "model"}
    assert kinds[made["outputs"]["model"].removeprefix("sha256:")] == "smile"
    assert [kind for kind in kinds.values() if kind].count("smile") == 1


def found(store, reference: str):
    return store.find(reference.removeprefix("sha256:"))


def store_data(store, directory) -> str:
    return f"sha256:{store.commit(directory, 'dataset').sha256}"


def test_a_mixture_that_was_taken_out_of_the_store_comes_back_as_the_same_artifact(place, run):
    """Nothing is added to it that a stock client would take for a plain model."""
    store = Store.open(settings().store)
    made = run("mix", models=[f"file://{place}/expert1"], base=f"file://{place}/base", method="wemoe", **wemoe(place, store))
    taken = store.materialise(found(store, made["outputs"]["model"]), place / "taken")
    head, data = f"file://{place}/expert1", store_data(store, write_labelled(place / "more", place / "base", labels=CLASSES[0]))
    report = run("evaluate", model=f"file://{taken}", dataset=data, head=head)
    assert report["inputs"]["model"]["sha256"] == made["outputs"]["model"].removeprefix("sha256:")
    plain = run("unload", model=f"file://{taken}")["outputs"]["model"]
    assert {"MLmodel", "model.safetensors"} <= {file.path for file in found(store, plain).manifest.files}


def wemoe(place, store) -> dict:
    data = store_data(store, write_labelled(place / "rows", place / "base", labels=CLASSES[0]))
    return {"datasets": [data], "split": "validation", "steps": "1", "router_depth": "0"}
