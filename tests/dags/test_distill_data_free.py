"""The DAG lfm_distill_data_free: what is measured, and on what."""

from __future__ import annotations

from tests.dags.conftest import of_task
from tests.images import toy, trained, write, write_images

SMALL = {
    "distill_data_free_method": "dfad",
    "distill_data_free_rounds": 2,
    "distill_data_free_images": 16,
    "distill_data_free_student_steps": 2,
    "distill_data_free_width": 4,
    "distill_data_free_batch_size": 8,
}


def test_teacher_and_student_are_measured_on_the_test_data(run_dag, tmp_path):
    write(trained(), tmp_path / "teacher"), write(toy(seed=5), tmp_path / "student"), write_images(tmp_path / "raw")
    references = {"teacher": f"file://{tmp_path}/teacher", "student": f"file://{tmp_path}/student", "data": f"file://{tmp_path}/raw"}
    state, states, records = run_dag("lfm_distill_data_free", references | SMALL)
    assert state == "success" and set(states.values()) == {"success"}
    distilled = of_task(records, "distill")
    assert set(distilled["inputs"]) == {"teacher", "student"} and set(distilled["outputs"]) == {"model", "report", "checkpoints.0"}
    assert of_task(records, "evaluate_teacher")["metrics"]["classification/accuracy"] > 0.9
    assert of_task(records, "evaluate_student")["inputs"]["model"]["sha256"] == distilled["outputs"]["model"]["sha256"]


def test_without_test_data_all_that_looks_at_data_is_skipped(dagbag):
    """A step whose required input is left empty is skipped, and so is what waits for its success."""
    dag = dagbag.dags["lfm_distill_data_free"]
    assert dag.task_dict["prepare"].references == {"data": "{data}"} and dag.params["data"] is None
    looking = [task for task in dag.tasks if getattr(task, "step", "") == "evaluate"]
    assert len(looking) == 3
    assert all("prepare" in task.upstream_task_ids and task.trigger_rule == "all_success" for task in looking)
    assert not dag.task_dict["distill"].upstream_task_ids
