"""An empty MLflow, filled from the store alone, shows a plain client what the first one showed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.cli import main
from lfm_tasks.runner.job import Job
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.settings import settings as process_settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.sync import sync_registry
from lfm_tasks.tracking.tracker import Tracker
from tests.reported import write_report
from tests.toys import make_llama
from tests.tracking.conftest import running_server

Commit = Callable[..., Artifact]
OWN = ("mlflow.runName", "mlflow.user", "mlflow.source", "lfm.replayed", "mlflow.parentRunId", "lfm.env", "lfm.code")
"""Tags that say which MLflow, or which process, and not what happened."""

REPORTED = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "validation_loss")
"""Metrics that a step reports while it works: MLflow alone holds their histories."""


def seen(address: str) -> dict[str, Any]:
    """What a plain client sees, with our addresses in the place of MLflow's ids."""
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("lfm").experiment_id
    logged = {model.model_id: model for model in client.search_logged_models([experiment], max_results=1000)}
    sha256 = {model_id: model.tags["lfm.sha256"] for model_id, model in logged.items()}
    runs = {run.data.tags["lfm.key"]: _run(run, sha256) for run in client.search_runs([experiment], "tags.`lfm.role` = 'attempt'")}
    keys = {run.info.run_id: run.data.tags["lfm.key"] for run in client.search_runs([experiment])}
    models = {}
    for model in client.search_registered_models():
        versions = {
            found.version: (sha256[re.search(r"m-[0-9a-f]{32}", found.source)[0]], keys[found.run_id], dict(found.tags))
            for found in client.search_model_versions(f"name = '{model.name}'")
        }
        models[model.name] = {"versions": versions, "aliases": model.aliases}
    about = {model.tags["lfm.sha256"]: (model.tags, keys.get(model.source_run_id), str(model.status)) for model in logged.values()}
    return {"runs": runs, "logged": about, "registered": models}


def _run(run: Run, sha256: dict[str, str]) -> dict[str, Any]:
    measured = {key: value for key, value in run.data.metrics.items() if not key.startswith(("system/", "progress/"))}
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {key: value for key, value in run.data.tags.items() if not key.startswith(OWN)},
        "metrics": measured,
        "data": sorted((d.dataset.name, d.dataset.digest, sorted((t.key, t.value) for t in d.tags)) for d in run.inputs.dataset_inputs),
        "from": sorted(sha256[given.model_id] for given in run.inputs.model_inputs),
        "to": sorted(sha256[made.model_id] for made in run.outputs.model_outputs),
    }


@pytest.mark.live
@pytest.mark.slow
def test_two_servers_show_a_plain_client_the_same_graph(
    tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "store"
    settings = Settings(home=tmp_path / "home", store_uri=f"file://{root}")
    with (
        running_server(_made(tmp_path / "first"), migrated, root) as first,
        running_server(_made(tmp_path / "second"), migrated, root) as second,
    ):
        _adapt(settings.model_copy(update={"mlflow_uri": first}), tmp_path)
        for name, value in {"HOME": settings.home, "STORE_URI": settings.store_uri, "MLFLOW_URI": second}.items():
            monkeypatch.setenv(f"LFM_{name}", str(value))
        process_settings.cache_clear()
        assert main(["records", "sync", "--all", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["registry"] == {"bbc": []}
        before, after = seen(first), seen(second)
        for key, run in after["runs"].items():
            on_the_way = before["runs"][key].pop("metrics")
            final = run.pop("metrics")
            assert final.items() <= on_the_way.items() and final["cost/wall_seconds"] > 0
            assert not {name for name in on_the_way.keys() - final.keys() if name not in REPORTED}
        assert after == before
        assert {run["tags"]["lfm.step"] for run in after["runs"].values()} == {"prepare", "tune", "evaluate", "gate", "promote"}
        assert main(["records", "sync", "--all"]) == 0
        again = seen(second)
        for run in again["runs"].values():
            run.pop("metrics")
        assert again == after
    process_settings.cache_clear()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _adapt(settings: Settings, tmp_path: Path) -> None:
    """prepare → tune → evaluate → gate → promote of a toy, with a cache hit on the way."""

    def run(step: str, config: dict[str, Any], **inputs: str) -> dict[str, str]:
        return run_job(Job(step=step, config=config, inputs=inputs), settings, StopSignal()).outputs

    store = Store.open(settings.store)
    make_llama(tmp_path / "base")
    (tmp_path / "rows").mkdir()
    rows = [{"text": f"{topic} happened {n} times", "label": topic} for n in range(40) for topic in ("sport", "business")]
    (tmp_path / "rows" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = f"sha256:{store.commit(tmp_path / 'base', 'model').sha256}"
    raw = f"sha256:{store.commit(tmp_path / 'rows', 'dataset').sha256}"
    for _ in range(2):
        data = run("prepare", {"max_length": 64}, data=raw, model=base)["dataset"]
    config = {"max_steps": 2, "options": {"rank": 2}, "save_merged": True}
    model = run("tune", config, model=base, dataset=data)["model"]
    run("evaluate", {"bootstrap_samples": 100}, model=model, dataset=data)
    reports = []
    for one, correct in ((model, [1] * 100), (base, [1, 0] * 50)):
        address = one.removeprefix("sha256:")
        report = write_report(tmp_path / address, address, data.removeprefix("sha256:"), correct)
        reports.append(f"sha256:{store.commit(report, 'report').sha256}")
    gate = {"must_not_regress": [], "bootstrap_samples": 100}
    decision = run("gate", gate, challenger=reports[0], champion=reports[1])["decision"]
    run("promote", {"model_name": "bbc"}, model=model, decision=decision)


def test_versions_keep_their_numbers_where_the_ledger_skips_one(
    settings: Settings, store: Store, tracker: Tracker, commit: Commit, tmp_path: Path, migrated: Path
) -> None:
    models = [commit("model", name) for name in "abc"]
    given = [Input(f"sha256:{model.sha256}", "model", model.sha256, Path(".")) for model in models]
    registry = tracker.registry
    registry.promote("m", "champion", given[0], None, "", "e" * 64)
    registry._version("m", given[1], "e" * 64)  # its promotion died before the ledger was told
    registry.promote("m", "champion", given[2], "1", "", "f" * 64)
    registry.promote("m", "trial", given[0], None, "", "e" * 64)
    copy = tmp_path / "empty.db"
    copy.write_bytes(migrated.read_bytes())
    fresh = Tracker.open(settings.model_copy(update={"mlflow_uri": f"sqlite:///{copy}"}), store)
    assert sync_registry(store, fresh) == {"m": []}
    (listed,) = fresh.registry.listed()
    assert listed["aliases"] == {"champion": "3", "trial": "1"}
    assert {row["version"]: row["sha256"] for row in listed["versions"]} == {"1": models[0].sha256, "3": models[2].sha256}
    assert fresh.registry.verify("m") == []
    assert sync_registry(store, fresh) == {"m": []}


def test_what_is_there_and_differs_is_named_and_left(
    settings: Settings, store: Store, tracker: Tracker, commit: Commit, tmp_path: Path, migrated: Path
) -> None:
    for name, expected in (("a", None), ("b", "1")):
        model = commit("model", name)
        tracker.registry.promote("m", "champion", Input("", "model", model.sha256, Path(".")), expected, "", "e" * 64)
    copy = tmp_path / "other.db"
    copy.write_bytes(migrated.read_bytes())
    fresh = Tracker.open(settings.model_copy(update={"mlflow_uri": f"sqlite:///{copy}"}), store)
    client = fresh.connection.client
    client.create_registered_model("m")
    client.create_model_version("m", "elsewhere")
    assert sync_registry(store, fresh) == {"m": ["Version 1 of m is another artifact in this MLflow than in the ledger."]}
    client.set_model_version_tag("m", "1", "lfm.sha256", commit("model", "a").sha256)
    client.set_registered_model_alias("m", "champion", "1")
    assert sync_registry(store, fresh) == {"m": ["Alias 'champion' of m names version 1 here; the ledger says 2."]}
