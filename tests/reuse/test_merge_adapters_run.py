"""The step merge_adapters among the others, through the runner: two tasks, an expert for each, one adapter that is better at both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfm_tasks.artifacts.store import Store
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from tests.toys import make_llama

TASKS = {"sport": "the striker scored in the final and the crowd cheered", "banks": "rates were raised again by the central bank"}


def test_the_merge_of_two_experts_beats_the_base_on_both_tasks(home: Path, tmp_path: Path) -> None:
    settings = Settings(home=home)
    store = Store.open(settings.store)

    def run(step: str, config: dict, **inputs: str) -> JobResult:
        return run_job(Job(step=step, config=config, inputs=inputs), settings, StopSignal())

    make_llama(tmp_path / "base")
    base, data, experts = f"sha256:{store.commit(tmp_path / 'base', 'model').sha256}", {}, {}
    for task, text in TASKS.items():
        (tmp_path / task).mkdir()
        rows = [{"text": f"{text}, said number {n} of {n * 7 % 31}"} for n in range(60)]
        (tmp_path / task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        raw = f"sha256:{store.commit(tmp_path / task, 'dataset').sha256}"
        data[task] = run("prepare", {"task": "text", "max_length": 64}, data=raw, model=base).outputs["dataset"]
        options = {"max_steps": 30, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 0, "save_merged": False}
        experts[task] = run("tune", options, model=base, dataset=data[task]).outputs["adapter"]
    merged = run("merge_adapters", {"options": {"rank": 16}}, **{f"adapters.{place}": one for place, one in enumerate(experts.values())})
    assert merged.summary["ranks"] == [16] and merged.metrics["kept_energy"] == pytest.approx(1, abs=1e-5)

    def perplexity(model: str, task: str) -> float:
        config = {"split": "validation", "bootstrap_samples": 100}
        return run("evaluate", config, model=model, dataset=data[task]).metrics["text/perplexity"]

    for task in TASKS:
        assert perplexity(merged.outputs["adapter"], task) < 0.9 * perplexity(base, task)
