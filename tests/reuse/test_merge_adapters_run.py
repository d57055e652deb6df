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

TASKS = {
    "topics": {"sport": "the striker scored in the final", "business": "the bank raised its rates"},
    "moods": {"good": "a great film, well acted", "bad": "an awful film, badly acted"},
}


def test_the_merge_of_two_experts_beats_the_base_on_both_tasks(home: Path, tmp_path: Path) -> None:
    settings = Settings(home=home)
    store = Store.open(settings.store)

    def run(step: str, config: dict, **inputs: str) -> JobResult:
        named = {name.replace("_", "."): reference for name, reference in inputs.items()}
        return run_job(Job(step=step, config=config, inputs=named), settings, StopSignal())

    make_llama(tmp_path / "base")
    base, data, experts = f"sha256:{store.commit(tmp_path / 'base', 'model').sha256}", {}, {}
    for task, texts in TASKS.items():
        (tmp_path / task).mkdir()
        rows = [{"text": f"number {n}: {text}", "label": label} for n in range(40) for label, text in texts.items()]
        (tmp_path / task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        raw = f"sha256:{store.commit(tmp_path / task, 'dataset').sha256}"
        data[task] = run("prepare", {"max_length": 64}, data=raw, model=base).outputs["dataset"]
        options = {"max_steps": 30, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 0, "save_merged": False}
        experts[task] = run("tune", options, model=base, dataset=data[task]).outputs["adapter"]
    merged = run("merge_adapters", {"options": {"rank": 16}}, **{f"adapters_{place}": one for place, one in enumerate(experts.values())})
    assert merged.summary["ranks"] == [16] and merged.metrics["kept_energy"] == pytest.approx(1, abs=1e-5)

    def correct(model: str, task: str) -> float:
        quick = {"split": "validation", "bootstrap_samples": 100}
        return run("evaluate", quick, model=model, dataset=data[task]).metrics["choice/accuracy"]

    for task in TASKS:
        print(task, correct(base, task), correct(experts[task], task), correct(merged.outputs["adapter"], task))
        assert correct(merged.outputs["adapter"], task) > correct(base, task)
