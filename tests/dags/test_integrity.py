"""Every DAG file: it parses, stays light, and says what it is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
HEAVY = ["torch", "transformers", "peft", "mlflow", "boto3", "datasets", "pandas", "pyarrow", "lm_eval", "matplotlib"]


def test_no_import_errors_and_one_dag_to_a_file(dagbag):
    assert dagbag.import_errors == {}
    assert sorted(dagbag.dags) == [path.stem for path in DAG_FILES]


def test_every_dag_says_what_it_is(dagbag):
    for dag in dagbag.dags.values():
        assert dag.doc_md and dag.description and dag.tags, dag.dag_id
        assert dag.catchup is False, dag.dag_id


def test_every_task_has_a_retry_and_heavy_steps_wait_for_a_slot(dagbag):
    for dag in dagbag.dags.values():
        for task in dag.tasks:
            assert task.retries >= 1, task.task_id
            assert task.owner != "airflow", task.task_id
            if getattr(task, "step", None) in ("prepare", "tune", "evaluate"):
                assert task.pool == "cpu_heavy", task.task_id


def test_every_param_has_a_type_and_a_description(dagbag):
    for dag in dagbag.dags.values():
        for name in dag.params:
            schema = dag.params.get_param(name).schema
            assert "type" in schema or "enum" in schema, f"{dag.dag_id}.{name}"
            assert dag.params.get_param(name).description, f"{dag.dag_id}.{name}"


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_parsing_imports_nothing_heavy(path):
    code = f"import sys, json, runpy; runpy.run_path({str(path)!r}); print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_parsing_twice_gives_the_same_version(dagbag):
    """A DAG whose serialised form differs from parse to parse makes a new version at every parse."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    again = DagBag(str(ROOT / "dags"))
    for name, dag in dagbag.dags.items():
        assert DagSerialization.to_dict(dag) == DagSerialization.to_dict(again.dags[name])
