"""Every DAG file: it parses, stays light, and says what it is."""

from __future__ import annotations

import json
import os
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
            if getattr(task, "step", None) in ("prepare", "tune", "distill", "evaluate"):
                assert task.pool == "cpu_heavy", task.task_id


def test_people_are_told_of_a_failed_run_of_any_dag_but_the_quarter_hourly_one(airflow_database, monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    from lfm_tasks.settings import settings

    monkeypatch.setenv("LFM_NOTIFY_EMAIL", "ann@localhost")
    settings.cache_clear()
    told = {dag.dag_id for dag in DagBag(str(ROOT / "dags")).dags.values() if dag.on_failure_callback}
    settings.cache_clear()
    assert told == {path.stem for path in DAG_FILES} - {"lfm_maintain"}


def test_every_param_has_a_type_and_a_description(dagbag):
    for dag in dagbag.dags.values():
        for name in dag.params:
            schema = dag.params.get_param(name).schema
            assert "type" in schema or "enum" in schema, f"{dag.dag_id}.{name}"
            assert dag.params.get_param(name).description, f"{dag.dag_id}.{name}"


def test_params_are_written_once_and_not_with_each_task(dagbag):
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in dagbag.dags.values():
        written = DagSerialization.to_dict(dag)["dag"]
        assert len(written.get("params", ())) == len(dag.params)
        assert str(written["tasks"]).count("'source': 'dag'") == 0, dag.dag_id


def test_the_dag_of_the_readme_is_one(airflow_database, tmp_path):
    from airflow.dag_processing.dagbag import DagBag

    code = (ROOT / "README.md").read_text().partition("### A DAG of your own")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "tune_weekly.py").write_text(code)
    found = DagBag(str(tmp_path))
    assert found.import_errors == {} and len(found.dags["tune_weekly"].tasks) == 3


def test_every_field_has_a_title_and_a_section(dagbag):
    for dag in dagbag.dags.values():
        for name in dag.params:
            schema = dag.params.get_param(name).schema
            assert schema.get("title") and schema.get("section"), f"{dag.dag_id}.{name}"
            assert set(schema.get("values_display", {})) <= set(schema.get("enum") or schema.get("examples", ())), f"{dag.dag_id}.{name}"


def test_aliases_are_moved_by_one_run_at_a_time(dagbag):
    serial = {dag.dag_id for dag in dagbag.dags.values() if dag.max_active_runs == 1}
    assert {"lfm_retrain", "lfm_promote", "lfm_rollback", "lfm_maintain"} <= serial


def test_retraining_begins_with_the_next_date_and_can_be_backfilled(dagbag):
    import pendulum
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import TimeRestriction

    dag = DagSerialization.from_dict(DagSerialization.to_dict(dagbag.dags["lfm_retrain"]))
    first = dag.timetable.next_dagrun_info(last_automated_data_interval=None, restriction=TimeRestriction(None, None, False))
    assert first.run_after > pendulum.now("UTC")
    between = dag.iter_dagrun_infos_between(pendulum.datetime(2026, 3, 1), pendulum.datetime(2026, 3, 22))
    assert [info.logical_date.to_date_string() for info in between] == ["2026-03-02", "2026-03-09", "2026-03-16"]


def test_who_starts_what(dagbag):
    retrain = dagbag.dags["lfm_retrain"]
    assert (retrain.timetable.timetable.expression, retrain.timetable.asset_condition.objects[0].name) == ("0 3 * * 1", "lfm_dataset")
    assert retrain.deadline[0].reference.reference_name == "DagRunQueuedAtDeadline"
    assert dagbag.dags["lfm_evaluate"].timetable.asset_condition.objects[0].name == "lfm_model"
    assert dagbag.dags["lfm_evaluate"].is_paused_upon_creation is True


def test_a_dag_of_partitions_is_made_by_a_setting():
    parse = f"import runpy; dag = runpy.run_path({str(ROOT / 'dags' / 'lfm_retrain.py')!r})['dag']"
    code = f"{parse}; print(type(dag.timetable).__name__, dag.params['data'], dag.params['tune_rank'])"

    def run(params):
        environment = os.environ | {"LFM_RETRAIN_PARAMS": params}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)

    done = run('{"data": "s3://rows/{partition}/", "tune_rank": 4}')
    assert done.stdout.splitlines()[-1] == "CronPartitionTimetable s3://rows/{partition}/ 4", done.stderr[-2000:]
    assert "Unknown Param 'rank'" in run('{"rank": 4}').stderr


PARSE_EACH = f"""
import json, os, runpy, sys
import airflow.sdk
for path in sys.argv[1:]:
    if os.fork() == 0:
        runpy.run_path(path)
        print(json.dumps([path, [name for name in {HEAVY!r} if name in sys.modules]]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def heavy_imports():
    """What parsing a DAG file imports of ``HEAVY``, by its path: each in a process of its own that has imported Airflow alone."""
    done = subprocess.run([sys.executable, "-c", PARSE_EACH, *map(str, DAG_FILES)], capture_output=True, text=True, check=True)
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))
    assert len(found) == len(DAG_FILES), done.stderr[-2000:]
    return found


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_parsing_imports_nothing_heavy(path, heavy_imports):
    assert heavy_imports[str(path)] == []


def test_parsing_twice_gives_the_same_version(dagbag):
    """A DAG whose serialised form differs from parse to parse makes a new version at every parse."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    again = DagBag(str(ROOT / "dags"))
    for name, dag in dagbag.dags.items():
        assert DagSerialization.to_dict(dag) == DagSerialization.to_dict(again.dags[name])
