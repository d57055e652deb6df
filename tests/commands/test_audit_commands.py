"""What an auditor types and reads: lineage, impact, cost, diff, ledger and taint, on a store that steps have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lfm_tasks.artifacts.store import Store
from lfm_tasks.cli import main
from lfm_tasks.config import canonical_json
from lfm_tasks.runner.job import Job
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings, settings
from tests.reported import write_report
from tests.tracking.tracking_records import make_record

Lfm = Callable[..., tuple[int, str]]


@pytest.fixture
def lfm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lfm:
    """Run a command; its exit code and what it said."""
    monkeypatch.setenv("COLUMNS", "240")

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


class Chain:
    """raw → prepare → data → tune → model → evaluate → gate → promote: the model is bbc@champion."""

    def __init__(self, home: Path, tmp_path: Path) -> None:
        self.settings, self._tmp_path = Settings(home=home), tmp_path
        self.store = Store.open(self.settings.store)
        self.raw, self.base, self.data = self.commit("dataset", "raw"), self.commit("model", "base"), self.commit("dataset", "data")
        self.model = self.commit("model", "tuned")
        self.put("prepare", {"data": self.raw, "model": self.base}, {"dataset": self.data}, number=1, cpu_seconds=3600.0)
        self.tune = self.put(
            "tune",
            {"model": self.base, "dataset": self.data},
            {"model": self.model},
            number=2,
            method="lora",
            format=2,
            device_seconds=1800.0,
            bytes_read=2**30,
            bytes_written=2**29,
        )
        self.put(
            "tune",
            {"model": self.base, "dataset": self.data},
            {"model": self.model},
            number=3,
            cpu_seconds=1.0,
            cache={"hit": True, "record": self.tune, "run_id": None},
            saved={"wall_seconds": 30.0, "cpu_seconds": 20.0, "device_seconds": 0},
        )

    def promote(self) -> None:
        reports = [self.evaluate(self.model, [1] * 100), self.evaluate(self.base, [1, 0] * 50)]
        decision = self.run("gate", {"must_not_regress": []}, challenger=reports[0], champion=reports[1])["decision"]
        self.run("promote", {"model_name": "bbc", "reason": "it is better"}, model=f"sha256:{self.model.sha256}", decision=decision)

    def commit(self, kind: str, name: str) -> Any:
        directory = self._tmp_path / f"{kind} {name}"
        directory.mkdir()
        (directory / "content.txt").write_text(name)
        return self.store.commit(directory, kind)  # type: ignore[arg-type]

    def put(self, step: str, inputs: dict[str, Any], outputs: dict[str, Any], **changes: Any) -> str:
        return self.store.put_record(make_record(step, inputs, outputs, **changes))

    def evaluate(self, model: Any, correct: list[int]) -> str:
        made = self.store.commit(write_report(self._tmp_path / f"report {model.sha256}", model.sha256, self.data.sha256, correct), "report")
        self.put("evaluate", {"model": model, "dataset": self.data}, {"report": made}, number=4)
        return f"sha256:{made.sha256}"

    def run(self, step: str, config: dict[str, Any], **inputs: str) -> dict[str, str]:
        return run_job(Job(step=step, config=config, inputs=inputs), self.settings, StopSignal()).outputs


@pytest.fixture
def chain(home: Path, tmp_path: Path) -> Chain:
    return Chain(home, tmp_path)


@pytest.fixture
def promoted(chain: Chain) -> Chain:
    chain.promote()
    return chain


def test_lineage_goes_both_ways_and_takes_the_start_of_an_address(chain: Chain, lfm: Lfm) -> None:
    code, said = lfm("lineage", chain.model.sha256[:8])
    assert code == 0 and said.startswith(f"model {chain.model.sha256[:12]}\n└─ tune lora  record {chain.tune[:12]}")
    assert "reused 1x" in said and chain.raw.sha256[:12] in said
    assert chain.model.sha256[:12] in lfm("lineage", f"sha256:{chain.raw.sha256}", "--descendants")[1]
    form = json.loads(lfm("lineage", chain.data.sha256, "--json")[1])
    assert {node["id"] for node in form["nodes"] if node["type"] == "artifact"} == {chain.data.sha256, chain.raw.sha256, chain.base.sha256}


def test_the_mermaid_form_has_a_node_and_an_edge_for_each_(chain: Chain, lfm: Lfm) -> None:
    _, said = lfm("lineage", chain.model.sha256, "--mermaid")
    lines = said.splitlines()
    assert lines[0] == "flowchart LR"
    assert sum("-->" in line for line in lines) == 6
    assert any('(["tune<br/>lora<br/>' in line and "reused 1x" in line for line in lines)


@pytest.mark.parametrize(
    "text, said",
    [
        ("sha256:000000000", "fits 0 addresses. Give one that the store knows"),
        ("starter://bbc-news", "starter://bbc-news is not in the store: no step has imported it"),
        ("what", "'what' is not a reference. Use one of sha256:"),
    ],
)
def test_what_names_nothing_is_refused_with_what_to_give(chain: Chain, lfm: Lfm, text: str, said: str) -> None:
    code, words = lfm("lineage", text)
    assert code == 2 and said in words


def test_an_imported_artifact_goes_by_the_name_it_was_imported_under(chain: Chain, lfm: Lfm) -> None:
    for n, artifact in enumerate((chain.base, chain.model)):
        entry = {"artifact": {"kind": "model", "sha256": artifact.sha256}, "provenance": {"scheme": "starter", "name": f"toy-{n}"}}
        chain.store.backend.put_bytes(f"imports/{n}.json", canonical_json(entry))
    code, said = lfm("lineage", "starter://toy-0", "--descendants")
    assert code == 0 and said.splitlines()[0] == f"model {chain.base.sha256[:12]}  starter://toy-0"


def test_cost_sums_the_ancestry_with_each_record_once_and_prices_make_it_money(
    chain: Chain, lfm: Lfm, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = json.loads(lfm("cost", chain.model.sha256, "--json")[1])["total"]
    assert (total["records"], total["hits"], total["cpu_seconds"], total["device_seconds"]) == (3, 1, 3621.0, 1800.0)
    assert (total["bytes_read"], total["saved"]["cpu_seconds"], total["money"]) == (2**30, 20.0, None)
    for name, value in {"CPU_HOUR": "0.36", "DEVICE_HOUR": "4", "GIB": "0.1"}.items():
        monkeypatch.setenv(f"LFM_PRICE_{name}", value)
    monkeypatch.setenv("LFM_CURRENCY", "EUR")
    settings.cache_clear()
    total = json.loads(lfm("cost", chain.model.sha256, "--json")[1])["total"]
    assert total["money"] == pytest.approx(3621 / 3600 * 0.36 + 0.5 * 4 + 1.5 * 0.1)
    assert total["saved_money"] == pytest.approx(20 / 3600 * 0.36)
    code, said = lfm("cost", chain.model.sha256)
    assert code == 0 and "2.5121 EUR" in said.splitlines()[-1] and "2 (1 reused)" in said


def test_impact_names_models_in_use_and_the_steps_between(promoted: Chain, lfm: Lfm) -> None:
    code, said = lfm("impact", promoted.raw.sha256)
    assert code == 0 and said.splitlines() == [
        f"bbc@champion  version 1  sha256:{promoted.model.sha256[:12]}  through prepare → tune lora",
        f"1 aliases in use name a model that contains dataset {promoted.raw.sha256[:12]}.",
    ]
    unused = promoted.commit("dataset", "unused")
    assert json.loads(lfm("impact", unused.sha256, "--json")[1]) == []


def test_the_ledger_says_who_when_and_why_and_what_an_alias_named_at_a_time(promoted: Chain, lfm: Lfm) -> None:
    code, said = lfm("ledger", "bbc")
    assert code == 0 and "- → 1" in said and "it is better" in said
    (entry,) = json.loads(lfm("ledger", "bbc", "--json")[1])
    now = json.loads(lfm("ledger", "bbc", "--as-of", entry["time"], "--json")[1])
    assert now["aliases"] == {"champion": {"version": "1", "sha256": promoted.model.sha256, "entry": 1}}
    assert "bbc had no alias at 2020-01-01T00:00:00+00:00" in lfm("ledger", "bbc", "--as-of", "2020-01-01")[1]
    assert lfm("ledger", "bbc", "--verify") == (0, "Every entry of bbc is as it was written, and every alias names what it should.\n")
    assert lfm("ledger", "bbx", "--verify")[0] == 2
    code, said = lfm("ledger", "bbx")
    assert code == 2 and "Unknown model in the ledger 'bbx'. Did you mean 'bbc'? Allowed: bbc." in said


def test_a_rewritten_ledger_is_found_by_what_the_promotions_record_remembers(promoted: Chain, lfm: Lfm) -> None:
    from lfm_tasks.artifacts.hashing import sha256_bytes
    from lfm_tasks.tracking.ledger import MOVES

    (entry,) = json.loads(lfm("ledger", "bbc", "--json")[1])
    forged = canonical_json({name: value for name, value in entry.items() if name != "sha256"} | {"why": "forged"})
    with sa.create_engine(promoted.settings.ledger).begin() as connection:
        connection.execute(MOVES.update().values(entry=forged.decode(), sha256=sha256_bytes(forged)))
    promoted.store.backend.put_bytes("ledger/bbc/1.json", forged)
    code, said = lfm("ledger", "bbc", "--verify")
    assert code == 3 and "Entry 1 of bbc is not the one that the record of its promotion remembers: the history was rewritten." in said


def test_taint_lists_descendants_flags_what_is_in_use_and_its_exit_code_tells(promoted: Chain, lfm: Lfm) -> None:
    code, said = lfm("taint", promoted.raw.sha256, "--reason", "licence withdrawn")
    assert code == 6
    assert f"model      {promoted.model.sha256[:12]}  bbc version 1 (champion)  IN USE: bbc@champion" in said
    assert lfm("taint", promoted.raw.sha256, "--reason", "again")[0] == 2
    listed = json.loads(lfm("taint", "--list", "--json")[1])
    assert [(mark["sha256"], mark["why"]) for mark in listed["marks"]] == [(promoted.raw.sha256, "licence withdrawn")]
    assert lfm("taint", promoted.raw.sha256, "--lift", "--reason", "a mistake")[0] == 0
    code, said = lfm("taint", "--list")
    assert code == 0 and "0 marks are in force; the chain is whole." in said and "a mistake" in said


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "Say what is revoked"),
        (("RAW",), "A mark needs a reason"),
        (("RAW", "--lift", "--reason", "x"), "is not revoked, so there is no mark to lift"),
    ],
)
def test_a_mark_needs_a_reason_and_something_to_mark(chain: Chain, lfm: Lfm, arguments: tuple[str, ...], said: str) -> None:
    code, words = lfm("taint", *(chain.raw.sha256 if one == "RAW" else one for one in arguments))
    assert code == 2 and said in words


def test_nothing_in_use_gives_exit_code_zero(chain: Chain, lfm: Lfm) -> None:
    assert lfm("taint", chain.raw.sha256, "--reason", "old")[0] == 0


def test_diff_shows_what_differs_and_says_when_two_are_one(promoted: Chain, lfm: Lfm) -> None:
    assert "They are one and the same." in lfm("diff", promoted.model.sha256, "models:/bbc@champion")[1]
    other = promoted.commit("model", "other")
    promoted.put("tune", {"model": promoted.base, "dataset": promoted.data}, {"model": other}, number=5, method="dora", config={"rank": 16})
    promoted.evaluate(other, [1, 1, 1, 0] * 25)
    code, said = lfm("diff", "models:/bbc/1", other.sha256, "--no-weights")
    assert code == 0 and "tune lora" in said and "tune dora" in said
    assert any(line.split()[:3] == ["rank", "8", "16"] for line in said.splitlines())
    assert "-0.25 [" in said
    assert json.loads(lfm("diff", "models:/bbc/1", other.sha256, "--no-weights", "--json")[1])["same"] is False
