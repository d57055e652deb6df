"""A model is rebuilt from its records: the same bytes, or how far off and why. Real steps on a toy model, and toys for what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.cli import main
from lfm_tasks.errors import ConfigError
from lfm_tasks.runner import reasons
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.steps import STEPS
from tests.runner.toy_steps import TOY
from tests.toys import make_llama

TOPICS = {"business": "the bank raised rates again", "sport": "the striker scored a goal"}


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setitem(STEPS._entries, "toy", TOY)
    return Settings(home=home)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store.open(settings.store)


def run(settings: Settings, step: str, config: dict, inputs: dict[str, str], **options) -> JobResult:
    return run_job(Job(step=step, config=config, inputs=inputs, **options), settings, StopSignal())


def replay(settings: Settings, address: str, **config) -> dict:
    """The content of ``replay.json``."""
    result = run(settings, "replay", config, {"artifact": address})
    report = result.outputs["report"].removeprefix("sha256:")
    return json.loads(Store.open(settings.store).backend.get_bytes(f"artifacts/report/{report}/replay.json"))


@pytest.fixture
def tuned(settings: Settings, store: Store, tmp_path: Path) -> dict[str, str]:
    """prepare → tune → evaluate on a toy model: references by name."""
    make_llama(tmp_path / "base")
    (tmp_path / "rows").mkdir()
    rows = [{"text": f"{text}, said number {n}", "label": label} for n in range(40) for label, text in TOPICS.items()]
    (tmp_path / "rows" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = f"sha256:{store.commit(tmp_path / 'base', 'model').sha256}"
    raw = f"sha256:{store.commit(tmp_path / 'rows', 'dataset').sha256}"
    data = run(settings, "prepare", {"max_length": 64}, {"data": raw, "model": model}).outputs["dataset"]
    config = {"max_steps": 3, "batch_size": 4, "options": {"rank": 2}, "evaluate_every": 0, "save_merged": True}
    made = run(settings, "tune", config, {"model": model, "dataset": data}).outputs
    report = run(settings, "evaluate", {"max_samples": 8, "bootstrap_samples": 100}, {"model": made["model"], "dataset": data})
    return {"raw": raw, "base": model, "data": data, "model": made["model"], "adapter": made["adapter"], "report": report.outputs["report"]}


def test_real_steps_give_the_same_bytes_again_and_leave_no_trace_but_the_replay(settings: Settings, store: Store, tuned: dict) -> None:
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("lfm").experiment_id
    before = {run.info.run_id for run in client.search_runs([experiment])}
    models, artifacts = len(client.search_logged_models([experiment])), set(store.artifacts())
    found = replay(settings, tuned["report"])
    assert found["verdict"] == "identical" and found["first_difference"] is None
    assert [(step["step"], step["verdict"]) for step in found["steps"]] == [(name, "identical") for name in ("prepare", "tune", "evaluate")]
    (fresh,) = [run for run in client.search_runs([experiment]) if run.info.run_id not in before]
    assert fresh.data.tags["lfm.step"] == "replay"
    assert (len(client.search_logged_models([experiment])), client.search_registered_models()) == (models, [])
    assert [kind for kind, _ in set(store.artifacts()) - artifacts] == ["report"]
    assert not list(store.backend.list("checkpoints/"))


def test_a_cache_hit_leads_to_the_work_and_a_model_is_replayed_on_what_went_into_it_alone(settings: Settings, tuned: dict) -> None:
    hit = run(settings, "prepare", {"max_length": 64}, {"data": tuned["raw"], "model": tuned["base"]})
    assert hit.cache == "hit"
    found = replay(settings, tuned["adapter"])
    assert [step["step"] for step in found["steps"]] == ["prepare", "tune"]
    assert hit.record not in {step["record"] for step in found["steps"]}


def test_a_step_that_changed_is_found_where_it_changed_with_the_file_that_did(
    settings: Settings, tuned: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lfm_tasks.runner.environment import code_digest, code_files
    from lfm_tasks.training import loop

    def digest(packages: tuple[str, ...]) -> str:
        return "0" * 64 if "lfm_tasks.training" in packages else code_digest(packages)

    def files(packages: tuple[str, ...]) -> dict[str, str]:
        return code_files(packages) | ({"lfm_tasks.training/loop.py": "0" * 64} if "lfm_tasks.training" in packages else {})

    monkeypatch.setattr(reasons, "code_digest", digest)
    monkeypatch.setattr(reasons, "code_files", files)
    step = loop.torch.optim.AdamW.step
    monkeypatch.setattr(loop.torch.optim.AdamW, "step", lambda self, *a, **k: (step(self, *a, **k), step(self, *a, **k))[0])
    found = replay(settings, tuned["report"])
    assert [step["verdict"] for step in found["steps"]] == ["identical", "diverged", "identical"]
    first = found["first_difference"]
    assert first["step"] == "tune" and first["difference"] > 1e-3
    assert first["why"][0].startswith("The step's code changed in lfm_tasks.training/loop.py (commit ")
    assert any(name.endswith("adapter_model.safetensors") for name in first["files"])


def test_a_small_difference_is_within_the_tolerance_and_said(settings: Settings, tuned: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfm_tasks.runner.rebuild.STEPS", _Shaken(STEPS, 1 + 2e-6))
    found = replay(settings, tuned["adapter"])
    tune = found["steps"][1]
    assert tune["verdict"] == found["verdict"] == "within tolerance"
    assert 0 < tune["difference"] < 1e-4
    assert "does not repeat itself on this machine" in tune["why"][0]
    assert replay(settings, tuned["adapter"], tolerance=1e-9)["verdict"] == "diverged"


def test_an_environment_that_differs_is_named_package_by_package(settings: Settings, tuned: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from lfm_tasks.runner.environment import environment

    now = environment() | {"packages": environment()["packages"] | {"torch": "9.9"}, "device": "cuda:Toy"}
    monkeypatch.setattr(reasons, "environment", lambda: now)
    monkeypatch.setattr("lfm_tasks.runner.rebuild.STEPS", _Shaken(STEPS, 1.5))
    (why,) = replay(settings, tuned["adapter"])["first_difference"]["why"]
    assert "torch " in why and "then, 9.9 now" in why and "device cpu then, cuda:Toy now" in why


def test_an_input_that_is_gone_is_rebuilt_where_it_can_be_and_named_where_not(settings: Settings, store: Store, tuned: dict) -> None:
    store.backend.delete(f"artifacts/dataset/{tuned['data'].removeprefix('sha256:')}")
    found = replay(settings, tuned["adapter"])
    assert [step["verdict"] for step in found["steps"]] == ["identical", "identical"]
    assert found["steps"][1]["why"] == ["The input 'dataset' is gone from the store; it was rebuilt with the same bytes."]
    store.backend.delete(f"artifacts/dataset/{tuned['raw'].removeprefix('sha256:')}")
    found = replay(settings, tuned["adapter"])
    assert [step["verdict"] for step in found["steps"]] == ["failed", "failed"]
    assert found["first_difference"]["step"] == "prepare"
    assert found["first_difference"]["why"][0].startswith("ReferenceRefused: Its input 'data' cannot be had: There is no artifact")


def test_a_step_that_raises_is_failed_and_the_others_go_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(settings, "toy", {"text": "a"}, {})
    second = run(settings, "toy", {"text": "b"}, {"data": first.outputs["dataset"]})
    function = TOY.function

    def fails_on_a(config, inputs, context):
        if config.text == "a":
            raise OSError("no")
        return function(config, inputs, context)

    monkeypatch.setattr("tests.runner.toy_steps.run", fails_on_a)
    found = replay(settings, second.outputs["dataset"])
    assert [(step["verdict"], step["why"][:1]) for step in found["steps"]] == [("failed", ["OSError: no"]), ("identical", [])]


def test_what_changes_the_world_is_not_done_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    first = run(settings, "toy", {"text": "a"}, {})
    monkeypatch.setitem(STEPS._entries, "toy", replace(TOY, cached=False))
    found = replay(settings, first.outputs["dataset"])
    assert [step["verdict"] for step in found["steps"]] == ["kept"] and found["verdict"] == "identical"


def test_what_was_imported_has_no_record_to_replay(settings: Settings, tuned: dict) -> None:
    with pytest.raises(ConfigError, match="No record says how sha256:.* was made: it was imported"):
        replay(settings, tuned["raw"])


def test_the_command_shows_each_step_and_its_exit_code_tells(
    settings: Settings, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made = run(settings, "toy", {"text": "a"}, {}).outputs["dataset"]
    assert main(["replay", made]) == 0
    assert "identical" in capsys.readouterr().out
    work = TOY.function
    monkeypatch.setattr("tests.runner.toy_steps.run", lambda config, *rest: work(config.model_copy(update={"text": "b"}), *rest))
    assert main(["replay", made, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "diverged"


class _Shaken:
    """The steps, but that adapters come out multiplied by a factor."""

    def __init__(self, steps, factor) -> None:
        self._steps, self._factor = steps, factor

    def __getitem__(self, name: str):
        step, factor = self._steps[name], self._factor
        if name != "tune":
            return step

        def function(config, inputs, context):
            from safetensors.torch import load_file, save_file

            outcome = step.function(config, inputs, context)
            path = outcome.outputs["adapter"].path / "adapter_model.safetensors"
            save_file({key: tensor * factor for key, tensor in load_file(path).items()}, path)
            return outcome

        class Shaken:
            config_class, code = step.config_class, step.code

        Shaken.name, Shaken.function = name, staticmethod(function)
        return Shaken
