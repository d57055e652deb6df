"""Only what nothing in use was made from is ever deleted, only when it is named, and never by halves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.cli import main
from lfm_tasks.errors import Conflict, InvalidInput, ReferenceRefused
from lfm_tasks.runner.collect import survey
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.index import LineageIndex
from lfm_tasks.tracking.tracker import Tracker
from tests.tracking.tracking_records import make_record

OLD = {"started": "2020-01-01T00:00:00+00:00", "finished": "2020-01-01T00:01:00+00:00"}


class World:
    """Three models, each from data of its own; ``first`` and then ``second`` were champion, ``lost`` never was. All are years old."""

    def __init__(self, home: Path, tmp_path: Path) -> None:
        self.settings, self._tmp_path = Settings(home=home), tmp_path
        self.store = Store.open(self.settings.store)
        self.tracker = Tracker.open(self.settings, self.store)
        self.data = {name: self.commit("dataset", f"data of {name}") for name in ("first", "second", "lost")}
        self.models = {name: self.commit("model", name) for name in self.data}
        self.decision = self.commit("report", "decision")
        self.reports = [self.commit("report", f"report {n}") for n in range(2)]
        for name, number in (("first", 1), ("second", 2), ("lost", 3)):
            self.put("tune", {"dataset": self.data[name]}, {"model": self.models[name]}, number)
        self.put("gate", {"challenger": self.reports[0], "champion": self.reports[1]}, {"decision": self.decision}, 4)
        for name, expected in (("first", None), ("second", "1")):
            model = self.models[name]
            given = Input(f"sha256:{model.sha256}", "model", model.sha256, Path("."))
            self.tracker.registry.promote("m", "champion", given, expected, "better", self.decision.sha256)

    def commit(self, kind: str, name: str, age: bool = True) -> Artifact:
        directory = self._tmp_path / f"{kind} {name}"
        directory.mkdir()
        (directory / "content.txt").write_text(name)
        artifact = self.store.commit(directory, kind)  # type: ignore[arg-type]
        if age:
            os.utime(self.path(artifact) / "manifest.json", (0, 0))
        return artifact

    def put(self, step: str, inputs: dict, outputs: dict, number: int, **changes) -> str:
        record = make_record(step, inputs, outputs, number=number, **{**OLD, **changes})
        address = self.store.put_record(record)
        self.store.put_cached(record["cache_key"], address)
        self.tracker.log_record(address, record)
        return address

    def path(self, artifact: Artifact) -> Path:
        return self.store.backend.local_path(f"artifacts/{artifact.kind}/{artifact.sha256}")  # type: ignore[return-value]

    def free(self, days: float = 1) -> set[str]:
        return {artifact.sha256 for artifact, _ in survey(self.store, self.tracker, timedelta(days=days)).free}

    def collect(self, *artifacts: Artifact) -> JobResult:
        config = {"keep_days": 1, "delete": [f"sha256:{artifact.sha256}" for artifact in artifacts]}
        return run_job(Job(step="collect", config=config), self.settings, StopSignal())


@pytest.fixture
def world(home: Path, tmp_path: Path) -> World:
    return World(home, tmp_path)


def test_free_is_exactly_what_no_alias_no_ledger_entry_and_no_evidence_was_made_from(world: World) -> None:
    assert world.free() == {world.models["lost"].sha256, world.data["lost"].sha256}


def test_what_an_alias_names_is_kept_whoever_set_it(world: World) -> None:
    client = MlflowClient(world.settings.tracking_uri)
    lost = world.models["lost"]
    client.create_registered_model("by-hand")
    client.create_model_version("by-hand", "somewhere", tags={"lfm.sha256": lost.sha256})
    assert lost.sha256 in world.free()
    client.set_registered_model_alias("by-hand", "trial", "1")
    assert world.free() == set()


def test_what_was_made_or_used_lately_is_kept(world: World) -> None:
    fresh, unrecorded = world.commit("model", "fresh", age=False), world.commit("dataset", "old and unrecorded")
    assert fresh.sha256 not in world.free() and fresh.sha256 in world.free(days=0)
    assert unrecorded.sha256 in world.free()
    world.put("tune", {"dataset": world.data["lost"]}, {}, 5, finished="2999-01-01T00:00:00+00:00")
    assert world.free() == {world.models["lost"].sha256, unrecorded.sha256}


def test_without_addresses_nothing_is_deleted_and_the_list_is_in_the_summary(world: World) -> None:
    before = set(world.store.artifacts())
    result = world.collect()
    assert set(world.store.artifacts()) == before
    assert {entry["sha256"] for entry in result.summary["free"]} == world.free()
    assert result.metrics["deleted"] == 0


def test_a_collected_artifact_is_gone_everywhere_while_its_record_says_what_it_was(world: World) -> None:
    lost, client = world.models["lost"], MlflowClient(world.settings.tracking_uri)
    (logged,) = client.search_logged_models([world.tracker.experiment_id], f"tags.`lfm.sha256` = '{lost.sha256}'")
    shown = Path(logged.artifact_location.removeprefix("file://"))
    assert (shown / "content.txt").samefile(world.path(lost) / "content.txt")
    (shown / "note.txt").write_text("somebody else's")
    records = len(list(world.store.records()))
    result = world.collect(lost)
    assert result.summary["deleted"] == [{"kind": "model", "sha256": lost.sha256, "size": lost.manifest.size}]
    with pytest.raises(ReferenceRefused):
        world.store.find(lost.sha256)
    assert not world.path(lost).exists()
    assert [path.name for path in shown.iterdir()] == ["note.txt"]
    assert client.get_logged_model(logged.model_id).tags["lfm.collected"] == "true"
    assert len(list(world.store.records())) == records + 1
    index = LineageIndex(world.store)
    index.refresh()
    node = index.node(lost.sha256)
    assert (node["stored"], node["collected_by"], node["maker"]["step"]) == (False, result.record, "tune")
    assert world.store.cached(f"{3:064x}") is None and world.store.cached(f"{1:064x}") is not None


@pytest.mark.parametrize("name, why", [("first", "is version 1 of m in the ledger"), ("second", "is m@champion")])
def test_what_is_reachable_is_refused_with_the_reason_and_nothing_is_deleted(world: World, name: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=f"Nothing was deleted. sha256:{world.models[name].sha256} {why}"):
        world.collect(world.models["lost"], world.models[name])
    with pytest.raises(InvalidInput, match=f"{world.data[name].sha256} went into sha256:.*, which {why}"):
        world.collect(world.models["lost"], world.data[name])
    assert world.free() == {world.models["lost"].sha256, world.data["lost"].sha256}


def test_evidence_is_kept_with_what_it_rests_on_and_an_unknown_address_is_named(world: World) -> None:
    with pytest.raises(InvalidInput, match="is evidence in the ledger of m"):
        world.collect(world.decision)
    with pytest.raises(InvalidInput, match="went into sha256:.*, which is evidence"):
        world.collect(world.reports[1])
    artifact = Artifact("model", "0" * 64, world.decision.manifest, "")
    with pytest.raises(InvalidInput, match=f"sha256:{'0' * 64} is not in the store"):
        world.collect(artifact)


def test_nothing_is_deleted_while_another_attempt_runs(world: World) -> None:
    run_id = world.tracker.open_attempt(None, "dag/run/tune/-1/77", "tune try 1", {})
    with pytest.raises(Conflict, match=r"1 attempts run \(dag/run/tune/-1/77\)"):
        world.collect(world.models["lost"])
    world.tracker.close_attempt(run_id, "FINISHED")
    world.collect(world.models["lost"])


def test_checkpoints_of_jobs_that_ended_are_swept_and_others_are_kept(world: World) -> None:
    for job in ("job-tune-1", "unfinished"):
        world.store.backend.put_bytes(f"checkpoints/{job}/5/manifest.json", b"{}")
    assert world.collect().summary["swept"] == 1
    assert list(world.store.backend.list("checkpoints/")) == ["checkpoints/unfinished/5/manifest.json"]


@pytest.mark.parametrize("calls", [1, 2])
def test_killed_at_any_point_of_a_deletion_nothing_half_there_looks_whole(world: World, calls: int) -> None:
    lost = world.models["lost"]
    code = (
        "import os, signal, sys\n"
        "from lfm_tasks.artifacts.file_backend import FileBackend\n"
        "from lfm_tasks.artifacts.store import Store\n"
        "calls, delete = [], FileBackend.delete\n"
        "def dying(self, prefix):\n"
        "    delete(self, prefix); calls.append(prefix)\n"
        f"    if len(calls) == {calls}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FileBackend.delete = dying\n"
        "store = Store.open(sys.argv[1])\n"
        "store.remove(store.find(sys.argv[2]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, world.settings.store, lost.sha256])
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(ReferenceRefused):
        world.store.find(lost.sha256)
    world.collect()
    assert not world.path(lost).exists()


def test_the_command_lists_and_deletes_what_it_is_given(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lost = world.models["lost"]
    assert main(["collect", "--keep-days", "1"]) == 0
    said = capsys.readouterr().out
    assert f"sha256:{lost.sha256}" in said and "Nothing was deleted." in said
    assert main(["collect", "--keep-days", "1", "--delete", f"sha256:{lost.sha256}", "--json"]) == 0
    assert [entry["sha256"] for entry in json.loads(capsys.readouterr().out)["deleted"]] == [lost.sha256]
    assert main(["collect", "--delete", "lost"]) == 2
    assert "delete.0: String should match pattern" in capsys.readouterr().err
