"""What was made from a revoked data set does not pass the gate and is not promoted, while a revoked champion can be replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import Revoked
from lfm_tasks.runner.job import Job
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.tracking.ledger import Ledger
from lfm_tasks.tracking.revocations import Revocations
from tests.reported import write_report
from tests.tracking.tracking_records import make_record

WHO = {"user": "ann"}


class World:
    """Two models: ``old`` was tuned on ``tainted``, ``new`` on ``clean``; both were evaluated on ``held_out``."""

    def __init__(self, home: Path, tmp_path: Path) -> None:
        self.settings, self.tmp_path = Settings(home=home), tmp_path
        self.store = Store.open(self.settings.store)
        self.revocations = Revocations(Ledger(self.settings.ledger, self.store))
        self.raw, self.tainted, self.clean, self.held_out = (self.commit("dataset", n) for n in ("raw", "tainted", "clean", "held out"))
        self.put("prepare", {"data": self.raw}, {"dataset": self.tainted})
        self.old, self.new = (self.model(name, data) for name, data in (("old", self.tainted), ("new", self.clean)))
        self.old_report, self.new_report = self.evaluate(self.old, [1, 0] * 100), self.evaluate(self.new, [1] * 200)

    def commit(self, kind: str, name: str) -> Artifact:
        directory = self.tmp_path / f"{kind} {name}"
        directory.mkdir()
        (directory / "content.txt").write_text(name)
        return self.store.commit(directory, kind)  # type: ignore[arg-type]

    def put(self, step: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        self.store.put_record(make_record(step, inputs, outputs))

    def model(self, name: str, data: Artifact) -> Artifact:
        made = self.commit("model", name)
        self.put("tune", {"dataset": data}, {"model": made})
        return made

    def evaluate(self, model: Artifact, correct: list[int]) -> Artifact:
        directory = write_report(self.tmp_path / f"report {model.sha256}", model.sha256, self.held_out.sha256, correct)
        made = self.store.commit(directory, "report")
        self.put("evaluate", {"model": model, "dataset": self.held_out}, {"report": made})
        return made

    def run(self, step: str, **inputs: Artifact | str) -> dict[str, str]:
        given = {name: one if isinstance(one, str) else f"sha256:{one.sha256}" for name, one in inputs.items()}
        config = {"model_name": "bbc"} if step == "promote" else {"must_not_regress": []}
        return run_job(Job(step=step, config=config, inputs=given), self.settings, StopSignal()).outputs


@pytest.fixture
def world(home: Path, tmp_path: Path) -> World:
    return World(home, tmp_path)


def test_a_challenger_that_descends_from_revoked_data_is_refused_with_who_why_and_what_to_do(world: World) -> None:
    world.run("gate", challenger=world.old_report, champion=world.new_report)
    world.revocations.revoke(world.raw.sha256, "dataset", "licence withdrawn", WHO)
    with pytest.raises(Revoked) as caught:
        world.run("gate", challenger=world.old_report, champion=world.new_report)
    said = str(caught.value)
    assert f"The input 'challenger' (sha256:{world.old_report.sha256}) descends from dataset sha256:{world.raw.sha256}" in said
    assert "by ann (licence withdrawn)" in said and f"`lfm taint sha256:{world.raw.sha256[:12]} --lift --reason …`" in said


def test_a_revoked_champion_can_be_replaced(world: World) -> None:
    world.revocations.revoke(world.tainted.sha256, "dataset", "personal data", WHO)
    decision = world.run("gate", challenger=world.new_report, champion=world.old_report)["decision"]
    world.run("promote", model=world.new, decision=decision)


def test_a_model_whose_data_was_revoked_after_the_gate_is_not_promoted(world: World) -> None:
    decision = world.run("gate", challenger=world.new_report, champion=world.old_report)["decision"]
    world.revocations.revoke(world.clean.sha256, "dataset", "personal data", WHO)
    with pytest.raises(Revoked, match="The input 'model' .* descends from dataset .*personal data"):
        world.run("promote", model=world.new, decision=decision)


def test_evidence_on_a_revoked_test_set_is_no_evidence(world: World) -> None:
    world.revocations.revoke(world.held_out.sha256, "dataset", "leaked", WHO)
    with pytest.raises(Revoked, match="The input 'challenger' .*leaked"):
        world.run("gate", challenger=world.new_report, champion=world.old_report)


def test_a_revoked_model_is_named_itself_and_a_lifted_mark_no_longer_binds(world: World) -> None:
    decision = world.run("gate", challenger=world.new_report, champion=world.old_report)["decision"]
    world.revocations.revoke(world.new.sha256, "model", "backdoor", WHO)
    with pytest.raises(Revoked, match=f"The input 'model' .* is model sha256:{world.new.sha256}, which was revoked"):
        world.run("promote", model=world.new, decision=decision)
    world.revocations.lift(world.new.sha256, "model", "false alarm", WHO)
    world.run("promote", model=world.new, decision=decision)
    assert [entry.content["action"] for entry in world.revocations.history()] == ["revoke", "lift"]
    assert world.revocations.problems() == []
