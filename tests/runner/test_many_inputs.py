"""An input that takes many: all of them, in order, in the cache key and in the record."""

from __future__ import annotations

import json

import pytest
from pydantic import Field

from lfm_tasks.artifacts.store import Store
from lfm_tasks.cli import main
from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError
from lfm_tasks.registry import InputSpec, Step
from lfm_tasks.runner.job import Job, numbered_inputs
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.step import Outcome, Output, all_of
from lfm_tasks.steps import STEPS
from lfm_tasks.tracking.lineage import Graph
from tests.runner.toy_steps import TOY


class JoinConfig(Config):
    between: str = Field("", description="What to write between two.")


def run(config: JoinConfig, inputs, context) -> Outcome:
    out = context.workdir / "out"
    out.mkdir()
    (out / "rows.jsonl").write_text(config.between.join((one.path / "rows.jsonl").read_text() for one in all_of(inputs, "parts")))
    return Outcome({"dataset": Output("dataset", out)})


JOIN = Step(
    name="join",
    title="Join",
    config="tests.runner.test_many_inputs:JoinConfig",
    run="tests.runner.test_many_inputs:run",
    inputs={"parts": InputSpec(("dataset",), "Rows.", many=True), "other": InputSpec(("dataset",), "Rows.", required=False)},
    outputs={"dataset": "dataset"},
    code=("lfm_tasks.runner",),
)


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setitem(STEPS._entries, "toy", TOY)
    monkeypatch.setitem(STEPS._entries, "join", JOIN)
    return Settings(home=home)


@pytest.fixture
def parts(settings):
    """Twelve, so that the order of numbers is not the order of letters."""
    return [run_job(Job(step="toy", config={"text": f"{i} "}), settings, StopSignal()).outputs["dataset"] for i in range(12)]


def test_the_command_line_prints_its_result_alone(settings, capsys):
    assert main(["run", "toy", "--text", "x", "--json"]) == 0
    assert main(["run", "toy", "--text", "x", "--json"]) == 0
    said = capsys.readouterr()
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(said.out)
    assert (first["cache"], json.loads(said.out[end:])["cache"]) == ("miss", "hit")
    assert "cache hit: step toy" in said.err


def join(settings, parts, **inputs):
    return run_job(Job(step="join", inputs=numbered_inputs({"parts": parts, **inputs})), settings, StopSignal())


def test_all_of_them_go_in_in_order_and_into_the_record(settings, parts):
    result = join(settings, parts)
    store = Store.open(settings.store)
    made = store.find(result.outputs["dataset"].removeprefix("sha256:"))
    assert (settings.home / f"store/artifacts/dataset/{made.sha256}/rows.jsonl").read_text() == " ".join(map(str, range(12))) + " "
    record = store.get_record(result.record)
    assert [record["inputs"][f"parts.{i}"]["sha256"] for i in range(12)] == [part.removeprefix("sha256:") for part in parts]
    assert {part.removeprefix("sha256:") for part in parts} <= Graph.of(store).ancestors(made.sha256)


def test_another_order_or_one_more_is_another_job(settings, parts):
    assert join(settings, parts[:3]).cache == "miss"
    assert join(settings, parts[:3]).cache == "hit"
    assert join(settings, [parts[1], parts[0], parts[2]]).cache == "miss"
    assert join(settings, [*parts[:3], parts[0]]).cache == "miss"


def test_the_inputs_of_a_record_are_a_job_again(settings, parts):
    record = Store.open(settings.store).get_record(join(settings, parts).record)
    again = {name: f"sha256:{given['sha256']}" for name, given in record["inputs"].items()}
    assert run_job(Job(step="join", inputs=again), settings, StopSignal()).cache == "hit"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "needs the input 'parts'"),
        (["parts"], r"takes many: name them parts\.0, parts\.1"),
        (["parts.0", "parts.2"], r"'parts\.2' does not follow"),
        (["parts.0", "other.0"], "'other' takes one reference, not many"),
        (["parts.0", "part.1"], r"Unknown input of step join 'part\.1'. Did you mean"),
    ],
)
def test_names_with_a_gap_or_for_a_single_input_are_refused(settings, parts, names, message):
    with pytest.raises(ConfigError, match=message):
        run_job(Job(step="join", inputs=dict.fromkeys(names, parts[0])), settings, StopSignal())
