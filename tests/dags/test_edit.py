"""The DAG lfm_edit through Airflow: facts typed in, a toy decoder, statistics, edit, evaluation, gate and promotion."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import settings
from lfm_tasks.tracking.lineage import Graph
from tests.dags.conftest import of_task
from tests.toys import make_llama

FACTS = [
    {
        "subject": subject,
        "prompt": "The minister told {} that the film",
        "target_new": new,
        "paraphrases": [f"In May the film told {subject}"],
    }
    for subject, new in (("parliament", "goal"), ("the striker", "bank"), ("the director", "dog"))
]


@pytest.fixture
def conf(tmp_path):
    make_llama(tmp_path / "model", layers=3)
    rows = [{"text": f"number {i} about the market of day {i * 7 % 31}, and the film won three awards in May."} for i in range(80)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {
        "model": f"file://{tmp_path}/model",
        "facts": None,
        "import_facts_facts": FACTS,
        "corpus": f"file://{tmp_path}/rows.jsonl",
        "general": f"file://{tmp_path}/rows.jsonl",
        "evaluate_edits_unknown": "keep",
        "evaluate_edits_fluency_facts": 1,
        "edit_round_size": 2,
        "edit_guard": "off",
        "edit_layers": [0, 2],
        "edit_steps": 3,
        "gate_must_not_regress": [],
        "promote_model_name": "edited-toy",
        "promote_approval": "never",
    }


@pytest.mark.slow
def test_facts_typed_in_are_written_measured_and_judged(run_dag, conf):
    state, states, records = run_dag("lfm_edit", conf)
    assert state == "success", states
    edit = of_task(records, "edit")
    assert edit["metrics"]["facts_edited"] == 3 and edit["metrics"]["rounds"] == 2
    assert of_task(records, "statistics")["config"]["options"]["layers"] == [0, 2]
    asked = {"efficacy.free_running/prefix_match", "efficacy.teacher_forced_tokens/token_accuracy", "general/perplexity"}
    for task in ("evaluate_base", "evaluate_challenger"):
        assert asked <= of_task(records, task)["metrics"].keys()

    store = Store.open(settings().store)
    graph = Graph.of(store)
    model = edit["outputs"]["model"]["sha256"]
    statistics = of_task(records, "statistics")["outputs"]["statistics"]["sha256"]
    facts = of_task(records, "known")["outputs"]["known"]["sha256"]
    assert {statistics, facts} < graph.ancestors(model)
    place = store.backend.local_path(f"artifacts/model/{model}")
    base = store.backend.local_path(f"artifacts/model/{edit['inputs']['model']['sha256']}")
    weights, old = load_file(place / "model.safetensors"), load_file(base / "model.safetensors")
    assert {name.split(".")[-2] for name in weights if not torch.equal(weights[name], old[name])} == {"down_proj"}


@pytest.mark.slow
def test_an_editor_is_trained_where_the_method_needs_one(run_dag, conf, tmp_path):
    """On training facts of subjects that are not edited; no statistics are gathered."""
    taught = [{**FACTS[0], "subject": subject} for subject in ("the minister", "the market", "the leading actor", "parliament")]
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "facts.jsonl").write_text("\n".join(map(json.dumps, taught)))
    values = {"edit_method": "mend", "training": f"file://{tmp_path}/training", "train_editor_steps": 2, "edit_round_size": 0}
    values |= {"general": None, "edit_layers": None, "edit_steps": None, "train_editor_layer": 0, "train_editor_rank": 4}
    state, states, records = run_dag("lfm_edit", conf | values)
    assert state == "success", states
    trained, edit = of_task(records, "train_editor"), of_task(records, "edit")
    assert states["statistics"] == "skipped" and trained["config"]["method"] == "mend_editor"
    assert trained["metrics"]["facts"] + trained["metrics"]["facts_held_out"] == 3, "parliament is edited"
    assert edit["inputs"]["editor"]["sha256"] == trained["outputs"]["editor"]["sha256"] and edit["metrics"]["facts_edited"] == 3
