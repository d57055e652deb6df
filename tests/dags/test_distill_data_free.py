"""The DAG lfm_distill_data_free, with a labelled test set and without."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize("with_data", [True, False])
def test_teacher_and_student_are_measured_where_there_is_data(run_dag, tmp_path, with_data):
    write(trained(), tmp_path / "teacher"), write(toy(seed=5), tmp_path / "student"), write_images(tmp_path / "raw")
    conf = {"teacher": f"file://{tmp_path}/teacher", "student": f"file://{tmp_path}/student", **SMALL}
    state, states, records = run_dag("lfm_distill_data_free", conf | ({"data": f"file://{tmp_path}/raw"} if with_data else {}))
    assert state == "success" and states["distill"] == "success"
    evaluated = {name: one for name, one in states.items() if name.startswith("evaluate")}
    assert set(evaluated) == {"evaluate_teacher", "evaluate_before", "evaluate_student"}
    assert set(evaluated.values()) == {"success" if with_data else "skipped"}
    distilled = of_task(records, "distill")
    assert set(distilled["inputs"]) == {"teacher", "student"} and set(distilled["outputs"]) == {"model", "report", "checkpoints.0"}
    if with_data:
        assert of_task(records, "evaluate_teacher")["metrics"]["classification/accuracy"] > 0.9
        assert of_task(records, "evaluate_student")["inputs"]["model"]["sha256"] == distilled["outputs"]["model"]["sha256"]
