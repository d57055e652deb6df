from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lfm_tasks.artifacts.store import Store
from tests.toys import make_llama

WORDS = {"business": "market", "sport": "goal", "tech": "phone"}


@pytest.fixture(scope="session")
def airflow_database():
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="session")
def dagbag(airflow_database):
    from airflow.dag_processing.dagbag import DagBag

    from tests.conftest import ROOT

    return DagBag(str(ROOT / "dags"))


@pytest.fixture
def toy(tmp_path) -> dict[str, Any]:
    """Params of a small job: a toy decoder learns three topics from 240 rows whose topic one word gives away."""
    make_llama(tmp_path / "model")
    labels = list(WORDS)
    rows = [{"text": f"number {i} about the {WORDS[labels[i % 3]]} of day {i * 7 % 31}", "label": labels[i % 3]} for i in range(240)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {
        "model": f"file://{tmp_path}/model",
        "data": f"file://{tmp_path}/rows.jsonl",
        "prepare_prompt_template": "Article: {text}\nTopic:",
    }


TUNING = {"tune_method": "full", "tune_learning_rate": 0.01, "tune_epochs": 6}
DECISION = {"gate_must_not_regress": [], "promote_model_name": "toy", "promote_approval": "never"}


@pytest.fixture
def run_dag(airflow_database, home, tmp_path, monkeypatch, warm) -> Callable[..., tuple[str, dict[str, str], list[dict[str, Any]]]]:
    """``run_dag(dag_id, conf, **arguments of dag.test)``: the run's state, the states of its tasks, and its records.

    The DAG is read anew each time, because ``dag.test()`` writes what it is given into the DAG's own Params.
    """
    from airflow.dag_processing.dagbag import DagBag

    from lfm_tasks.settings import settings
    from tests.conftest import ROOT

    monkeypatch.setenv("LFM_ALLOWED_PREFIXES", f"file://{tmp_path}")
    monkeypatch.setenv("LFM_INTERPRETER", str(warm))
    settings.cache_clear()

    def run(dag_id: str, conf: dict[str, Any], **arguments: Any):
        dag = DagBag(str(ROOT / "dags" / f"{dag_id}.py")).dags[dag_id]
        dag.deadline = None  # dag.test() of Airflow 3.3.2 fails at the end of a run that has one: it looks deadlines up in the database
        for task in dag.tasks:
            if hasattr(task, "partial_kwargs"):
                task.partial_kwargs["retries"] = 0
            else:
                task.retries = 0
        done = dag.test(run_conf=conf, **arguments)
        records = [r for _, r in Store.open(settings().store).records() if (r.get("airflow") or {}).get("run_id") == done.run_id]
        states = {f"{ti.task_id}[{ti.map_index}]" if ti.map_index >= 0 else ti.task_id: str(ti.state) for ti in done.get_task_instances()}
        return str(getattr(done.state, "value", done.state)), states, sorted(records, key=lambda record: record["started"])

    return run


def of_task(records: list[dict[str, Any]], task_id: str) -> dict[str, Any]:
    return next(record for record in records if record["airflow"]["task_id"] == task_id)
