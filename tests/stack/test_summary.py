from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from lfm_tasks.artifacts.store import Store
from lfm_tasks.stack.progress import Attempt, Lines, NewRecords, in_order, task_summary
from lfm_tasks.stack.summary import render, summarise, write

RUN = ("lfm_adapt", "manual__1")


def metric(value: float, low: float | None = None, high: float | None = None) -> dict:
    return {"value": value, "low": low, "high": high, "n": 60, "higher_is_better": True, "unit": ""}


def record(task: str, started: str, outputs: dict | None = None, inputs: dict | None = None, **facts) -> dict:
    return {
        "format": 1,
        "step": task.split("_")[0],
        "method": facts.pop("method", None),
        "cache": {"hit": facts.pop("hit", False), "record": None, "run_id": None},
        "inputs": inputs or {},
        "outputs": outputs or {},
        "metrics": {},
        "summary": {},
        "airflow": {"dag_id": RUN[0], "run_id": facts.pop("run_id", RUN[1]), "task_id": task},
        "started": f"2026-11-24T{started}:00+00:00",
        "finished": f"2026-11-24T{started}:30+00:00",
        "wall_seconds": 10.0,
        "cpu_seconds": 8.5,
        "peak_rss_bytes": 512 << 20,
    } | facts


def report(store: Store, path, name: str, content: dict) -> dict:
    path.mkdir(parents=True)
    (path / name).write_text(json.dumps(content))
    artifact = store.commit(path, "report")
    return {"kind": "report", "sha256": artifact.sha256}


BASE, ADAPTED, MODEL = {"accuracy": metric(0.55, 0.43, 0.68)}, {"accuracy": metric(0.917, 0.83, 0.98)}, "a" * 64


@pytest.fixture
def store(tmp_path):
    """One finished run: base and adapted measured, the gate for it, version 1 promoted; and a record of another run."""
    store = Store.open(f"file://{tmp_path / 'store'}")
    base = report(store, tmp_path / "base", "metrics.json", {"format": 1, "metrics": BASE})
    adapted = report(store, tmp_path / "adapted", "metrics.json", {"format": 1, "metrics": ADAPTED})
    decision = report(store, tmp_path / "decision", "decision.json", {"outcome": "promote", "reasons": ["accuracy is better by 0.367"]})
    model, data = {"kind": "model", "sha256": MODEL}, {"kind": "dataset", "sha256": "d" * 64}
    said = {"model_name": "bbc-topics", "alias": "champion", "version": "1", "previous": None, "moved": True}
    for one in (
        record("prepare", "10:00", {"dataset": data}, hit=True),
        record("tune", "10:01", {"model": model}, {"dataset": data | {"reference": "x", "version": None}}, method="lora"),
        record("evaluate_base", "10:02", {"report": base}),
        record("evaluate_champion", "10:03", {"report": base}, hit=True),
        record("evaluate_challenger", "10:04", {"report": adapted}),
        record("gate", "10:05", {"decision": decision}),
        record("promote", "10:06", summary=said),
        record("tune", "11:00", {"model": {"kind": "model", "sha256": "b" * 64}}, run_id="manual__2"),
    ):
        store.put_record(one)
    return store


STATES = {
    "prepare": "success",
    "tune": "success",
    "evaluate_base": "success",
    "evaluate_champion": "success",
    "evaluate_challenger": "success",
    "gate": "success",
    "promote": "success",
    "finish": "success",
}


def text_of(renderable) -> str:
    file = io.StringIO()
    Console(file=file, width=120).print(renderable)
    return file.getvalue()


def test_summary_tells_of_this_run_alone(store):
    summary = summarise(store, *RUN, "success", STATES)
    assert summary.metrics == {"base": BASE, "champion": BASE, "adapted": ADAPTED}
    assert summary.decision["outcome"] == "promote"
    assert summary.model == {
        "sha256": MODEL,
        "kind": "model",
        "model_name": "bbc-topics",
        "alias": "champion",
        "version": "1",
        "previous": None,
        "moved": True,
    }
    assert [step.task for step in summary.steps] == list(STATES)
    assert summary.cache_hits == 2
    assert summary.steps[-1].wall_seconds is None


def test_a_retried_task_counts_with_its_last_record(store):
    store.put_record(record("tune", "10:30", {"model": {"kind": "model", "sha256": "c" * 64}}))
    assert summarise(store, *RUN, "success", STATES).model["sha256"] == "c" * 64


def test_what_is_shown(store):
    shown = text_of(render(summarise(store, *RUN, "success", STATES)))
    assert "0.550  [0.430, 0.680]" in shown
    assert "0.917  [0.830, 0.980]" in shown
    assert "champion" not in shown.splitlines()[2], "a champion that is the base needs no column of its own"
    assert "Gate: promote\n  - accuracy is better by 0.367" in shown
    assert "models:/bbc-topics@champion" in shown
    assert f"sha256:{MODEL}" in shown
    assert "tune lora" in shown
    assert "dataset dddddddddddd" in shown
    assert "512 MB" in shown
    assert shown.count("hit") == 2


def test_a_rejected_challenger_is_no_version(store, tmp_path):
    rejected = report(store, tmp_path / "no", "decision.json", {"outcome": "reject", "reasons": ["perplexity regressed"]})
    store.put_record(record("gate", "10:40", {"decision": rejected}))
    store.put_record(record("promote", "10:41", summary={"model_name": "bbc-topics", "alias": "champion", "moved": False}))
    shown = text_of(render(summarise(store, *RUN, "success", STATES)))
    assert "Gate: reject" in shown
    assert "no alias was moved" in shown
    assert "models:/" not in shown


def test_a_run_that_failed_early_can_be_shown(tmp_path):
    store = Store.open(f"file://{tmp_path / 'empty'}")
    summary = summarise(store, *RUN, "failed", {"prepare": "failed", "tune": "upstream_failed"})
    shown = text_of(render(summary))
    assert "upstream_failed" in shown
    assert summary.model is None


def test_what_is_written_can_be_read_back(store, tmp_path):
    write(summarise(store, *RUN, "success", STATES), {"dag_seconds": 61.5}, tmp_path / "demo" / "adapt.json")
    read = json.loads((tmp_path / "demo" / "adapt.json").read_text())
    assert read["metrics"]["adapted"]["accuracy"]["low"] == 0.83
    assert read["cache_hits"] == 2
    assert read["dag_seconds"] == 61.5
    assert read["steps"][0] == {
        "task": "prepare",
        "state": "success",
        "cache_hit": True,
        "wall_seconds": 10.0,
        "cpu_seconds": 8.5,
        "peak_rss_bytes": 512 << 20,
    }


def test_records_are_read_once_and_by_task(store):
    records = NewRecords(store, *RUN)
    assert set(records.look()) == set(STATES) - {"finish"}
    read: list[str] = []
    original = store.get_record
    store.get_record = lambda address: read.append(address) or original(address)
    store.put_record(record("finish", "10:50"))
    assert "finish" in records.look()
    assert len(read) == 1


def test_a_running_task_shows_its_time_so_far():
    task = {"task_id": "tune", "state": "running", "start_date": "2026-11-24T10:00:00Z", "duration": None}
    assert task_summary(task, None, datetime(2026, 11, 24, 10, 0, 12, tzinfo=UTC)).wall_seconds == 12.0
    waiting = task_summary({"task_id": "gate", "state": None, "duration": None}, None, datetime.now(UTC))
    assert (waiting.state, waiting.wall_seconds, waiting.cache_hit) == ("waiting", None, None)


def test_instances_of_a_mapped_task_are_told_apart(store):
    mapped = record("evaluate", "10:51")
    for place in (0, 1):
        store.put_record(mapped | {"airflow": mapped["airflow"] | {"map_index": place}, "cpu_seconds": 1.0 + place})
    found = NewRecords(store, *RUN).look()
    tasks = in_order([{"task_id": "evaluate", "map_index": place, "state": "success"} for place in (1, 0)], ["evaluate"])
    shown = [task_summary(task, found[f"evaluate[{task['map_index']}]"], datetime.now(UTC)) for task in tasks]
    assert [(one.task, one.cpu_seconds) for one in shown] == [("evaluate[0]", 1.0), ("evaluate[1]", 2.0)]


def test_tasks_are_shown_in_the_dag_s_order():
    tasks = [{"task_id": name} for name in ("gate", "new", "prepare", "tune")]
    assert [task["task_id"] for task in in_order(tasks, ["prepare", "tune", "gate"])] == ["prepare", "tune", "gate", "new"]


def test_a_log_file_gets_one_line_per_change():
    file = io.StringIO()
    lines = Lines(Console(file=file, width=120))
    running = {"task_id": "tune", "state": "running", "start_date": "2026-11-24T10:00:00Z"}
    ended = {"task_id": "tune", "state": "success", "duration": 61.2}
    now = datetime(2026, 11, 24, 10, 1, tzinfo=UTC)
    attempt = Attempt("tune", {"progress/done": 12, "progress/total": 50, "loss": 0.4321, "tokens_per_second": 812.4})
    for task, attempts in ((running, []), (running, [attempt]), (running, [attempt]), (ended, [])):
        lines.show([task_summary(task, record("tune", "10:01", hit=True) if task is ended else None, now)], attempts)
    assert file.getvalue().splitlines() == [
        "tune: running",
        "tune: 12 of 50  loss 0.432  812 tokens/s",
        "tune: success after 61.2 s (cache hit)",
    ]
