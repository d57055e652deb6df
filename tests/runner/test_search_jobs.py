"""A search through the runner: it reads validation rows alone, what it found is what *evaluate* measures, its lineage, and its cache."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import AttemptKilled
from lfm_tasks.reuse import search
from lfm_tasks.runner.job import Job, JobResult, numbered_inputs
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.lineage import Graph
from tests.experts import TASKS, train_experts

SEARCH = {"method": "task_arithmetic", "search": {"scale": [0.0, 0.4, 1.0]}, "score": "log_likelihood"}


@pytest.fixture(scope="module")
def experts(tmp_path_factory) -> dict[str, Input]:
    """Their data sets have no test rows: a search that looked at them would fail."""
    made = train_experts(tmp_path_factory.mktemp("experts"))
    for task in range(len(TASKS)):
        (made[f"datasets.{task}"].path / "test.parquet").unlink()
    return made


@pytest.fixture
def job(home, experts, tmp_path, monkeypatch) -> Job:
    """Both experts, searched over the scale of their task vectors."""
    monkeypatch.setenv("LFM_ALLOWED_PREFIXES", f"file://{experts['base'].path.parent}")
    settings.cache_clear()
    store = Store.open(settings().store)
    given = {name: f"file://{one.path}" for name, one in experts.items() if one.kind == "model"}
    data = [store.commit(experts[f"datasets.{task}"].path, "dataset") for task in range(len(TASKS))]
    return Job(step="search_merge", config=SEARCH, inputs=given | numbered_inputs({"datasets": [f"sha256:{one.sha256}" for one in data]}))


def run(job: Job) -> JobResult:
    return run_job(job, settings(), StopSignal())


def test_what_a_search_found_is_what_evaluate_measures_of_the_model_that_it_wrote(job):
    found = run(job)
    assert found.state == "success" and run(job).cache == "hit"
    best = found.summary["best"]
    assert best["score"] >= found.metrics["default_score"] and best["score"] > found.metrics["best_single_score"]
    for task, score in enumerate(best["scores"]):
        inputs = {"model": found.outputs["model"], "dataset": job.inputs[f"datasets.{task}"], "head": job.inputs[f"models.{task}"]}
        report = run_job(Job(step="evaluate", config={"split": "validation"}, inputs=inputs), settings(), StopSignal())
        assert report.metrics["classification/accuracy"] == score["accuracy"]


def test_what_a_search_found_is_a_model_in_mlflow_made_from_its_sources(job):
    found = run(job)
    client, sha256 = MlflowClient(settings().tracking_uri), found.outputs["model"].removeprefix("sha256:")
    logged = client.search_logged_models([one.experiment_id for one in client.search_experiments()])
    assert [one.source_run_id for one in logged if one.tags["lfm.sha256"] == sha256] == [found.run_id]
    sources = {one["sha256"] for one in found.inputs.values()}
    assert len(sources) == 5 and sources <= Graph.of(Store.open(settings().store)).ancestors(sha256)
    trials = Store.open(settings().store).find(found.outputs["trials"].removeprefix("sha256:"))
    assert {"trials.json", "trials.csv", "report.md", "figures/trials.png"} == {file.path for file in trials.manifest.files}


class StopAfter(StopSignal):
    """A stop that is asked for once ``scored`` has as many entries as ``count``."""

    def __init__(self, scored: list, count: int) -> None:
        super().__init__()
        self.scored, self.count = scored, count

    def __bool__(self) -> bool:
        return len(self.scored) >= self.count


def test_a_stopped_search_goes_on_from_its_trials_and_ends_with_the_same_bytes(job, monkeypatch):
    scored, score = [], search.Space.score
    monkeypatch.setattr(search.Space, "score", lambda space, tensors: scored.append(1) or score(space, tensors))
    with pytest.raises(AttemptKilled):
        run_job(job, settings(), StopAfter(scored, 4))
    assert len(scored) == 4
    resumed = run(job)
    assert len(scored) == 6, "two models, the defaults, three candidates: none of them twice"
    straight = run_job(job.model_copy(update={"use_cache": False}), settings(), StopSignal())
    assert len(scored) == 12 and resumed.outputs == straight.outputs
