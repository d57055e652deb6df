"""``dag.test()`` of lfm_adapt, by Params alone: a decoder with LoRA, an encoder as a classifier, other file formats."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from lfm_tasks.artifacts.store import Store
from tests.conftest import ROOT
from tests.toys import make_bert, make_llama

pytestmark = pytest.mark.slow
WORDS = {"business": "market", "sport": "goal", "tech": "phone"}


def rows(count=180):
    labels = list(WORDS)
    return [{"text": f"number {i} about the {WORDS[labels[i % 3]]} of day {i * 7 % 31}", "label": labels[i % 3]} for i in range(count)]


@pytest.fixture
def run(airflow_database, home, tmp_path, monkeypatch, warm):
    """Run the DAG on models and data below ``tmp_path``; gives the run's state and its records by task.

    The DAG is read anew, because ``dag.test()`` writes what it is given into the DAG's own Params.
    """
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("LFM_ALLOWED_PREFIXES", f"file://{tmp_path}")
    monkeypatch.setenv("LFM_INTERPRETER", str(warm))
    from lfm_tasks.settings import settings

    settings.cache_clear()

    def start(**conf):
        dag = DagBag(str(ROOT / "dags" / "lfm_adapt.py")).dags["lfm_adapt"]
        for task in dag.tasks:
            task.retries = 0
        done = dag.test(run_conf={"general": None, "gate_must_not_regress": [], "promote_approval": "never", **conf})
        records = Store.open(settings().store).records()
        by_task = {r["airflow"]["task_id"]: r for _, r in records if (r.get("airflow") or {}).get("run_id") == done.run_id}
        return str(getattr(done.state, "value", done.state)), by_task

    return start


def test_a_decoder_with_lora_on_a_csv_file(run, tmp_path):
    make_llama(tmp_path / "model")
    pa.csv.write_csv(pa.Table.from_pylist(rows()), tmp_path / "rows.csv")
    state, records = run(
        model=f"file://{tmp_path}/model",
        data=f"file://{tmp_path}/rows.csv",
        general=f"file://{tmp_path}/rows.csv",
        tune_method="lora",
        tune_rank=4,
        tune_max_steps=3,
        promote_model_name="toy",
    )
    assert state == "success"
    assert set(records["tune"]["outputs"]) == {"adapter", "model"}
    assert records["tune"]["config"]["options"] == {"rank": 4}
    assert "general/perplexity" in records["evaluate_challenger"]["metrics"]
    assert records["evaluate_champion"]["cache"]["hit"], "the champion is the base model at first: its evaluation is already there"


def test_an_encoder_as_a_classifier_on_parquet(run, tmp_path):
    make_bert(tmp_path / "model")
    (tmp_path / "data").mkdir()
    pa.parquet.write_table(pa.Table.from_pylist(rows()), tmp_path / "data" / "rows.parquet")
    state, records = run(
        model=f"file://{tmp_path}/model",
        data=f"file://{tmp_path}/data",
        prepare_task="classification",
        tune_method="full",
        tune_learning_rate=5e-3,
        tune_epochs=8,
        promote_model_name="toy-classifier",
    )
    assert state == "success"
    before, after = (records[task]["metrics"]["classification/accuracy"] for task in ("evaluate_base", "evaluate_challenger"))
    assert after > before + 0.2
    assert records["gate"]["summary"]["outcome"] == "promote"
    assert records["promote"]["summary"]["version"] == "1"


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"data": "http://169.254.169.254/latest"}, "is not a reference"),
        ({"data": "file:///etc/passwd"}, "outside the allowed prefixes"),
        ({"prepare_prompt_template": "{{ var.value.secret }} {text}"}, "template"),
        ({"prepare_label_column": "topic"}, "topic"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_params_fail_the_first_step_with_a_sentence(run, tmp_path, conf, message, capfd, caplog):
    make_llama(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows(30)))
    given = {"model": f"file://{tmp_path}/model", "data": f"file://{tmp_path}/rows.jsonl", "promote_model_name": "toy", **conf}
    state, records = run(**given)
    output = capfd.readouterr()
    assert state == "failed" and records == {}
    assert message in output.out + output.err + caplog.text
