"""``LFM_LAUNCHER=torchrun``: two processes train what one would have trained, and one of them is the attempt."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch.testing import assert_close

from lfm_tasks.artifacts.store import Store
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.launcher import Child
from lfm_tasks.settings import Settings
from tests.tuned import llama_input, write_dataset

pytestmark = pytest.mark.slow
TUNE = {"method": "full", "learning_rate": 1e-2, "max_steps": 4, "batch_size": 8, "pack_length": 64, "checkpoint_every": 2}


@pytest.fixture
def references(home, tmp_path):
    """A toy decoder and a prepared data set in the store."""
    store, model = Store.open(Settings(home=home).store), llama_input(tmp_path / "llama")
    data = write_dataset(tmp_path / "data", model.path, "instruction", rows=24)
    return {name: f"sha256:{store.commit(one.path, one.kind).sha256}" for name, one in {"model": model, "dataset": data}.items()}


def run(home, references, launcher: str, arguments: str = "", **values) -> tuple[JobResult, list[str]]:
    settings = Settings(home=home, launcher=launcher, launcher_args=arguments, threads=1)
    lines: list[str] = []
    job = Job(step="tune", config=TUNE | values, inputs=references, use_cache=False)
    return Child(job, settings).follow(lines.append), lines


def test_two_processes_train_what_one_trains_as_one_attempt(home, references):
    alone, _ = run(home, references, "python")
    together, lines = run(home, references, "torchrun", "--standalone --nproc-per-node 2")
    assert together.state == "success", "\n".join(lines)
    store = Store.open(Settings(home=home).store)
    weights = [load_file(store.materialise(store.find(one.outputs["model"][7:]), home) / "model.safetensors") for one in (alone, together)]
    for name, tensor in weights[0].items():
        assert_close(tensor, weights[1][name], atol=2e-4, rtol=1e-3)
    runs = MlflowClient(Settings(home=home).tracking_uri).search_runs(["1"])
    assert [one.info.status for one in runs] == ["FINISHED", "FINISHED"]
    assert store.get_record(together.record)["environment"]["processes"] == 2


def test_a_step_that_fails_before_its_work_sends_the_others_home(home, references):
    result, lines = run(home, references | {"dataset": f"sha256:{'0' * 64}"}, "torchrun", "--standalone --nproc-per-node 2")
    assert result.state == "failed" and "There is no artifact" in result.error.message, "\n".join(lines)
