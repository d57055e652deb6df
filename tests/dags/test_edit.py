"""The DAG lfm_edit through Airflow: facts typed in, a toy decoder, statistics, edit, evaluation, gate and promotion."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ConfigError
from lfm_tasks.operators import PlanShardsOperator
from lfm_tasks.operators.layers import sweeps
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
def test_the_layer_is_found_on_facts_that_are_not_edited_by_statistics_in_shards(run_dag, conf, tmp_path):
    (tmp_path / "others").mkdir()
    others = [
        {"subject": subject, "prompt": "The minister told {} that", "target_true": true, "target_new": "bank"}
        for subject, true in (("the minister", "goal"), ("the central bank", "film"), ("the director", "dog"))
    ]
    (tmp_path / "others" / "facts.jsonl").write_text("\n".join(json.dumps(row) for row in others))
    found = {"layers": "find", "held_out_facts": f"file://{tmp_path}/others", "sweep_edit_layers_shards": 2, "statistics_shards": 2}
    tried = {"sweep_edit_layers_candidate_layers": [0, 2], "edit_layers": None, "import_facts_facts": FACTS[:1]}
    state, states, records = run_dag("lfm_edit", conf | found | tried | {"general": None})
    assert state == "success", states
    assert [states[f"{task}[{place}]"] for task in ("statistics", "sweep_layers") for place in range(2)] == ["success"] * 4
    best = of_task(records, "choose_layer")["summary"]["best"]
    edit, sum_of_shards = of_task(records, "edit"), of_task(records, "add_statistics")
    assert edit["config"]["options"]["layers"] == best["options"]["layers"] in ([0], [2])
    assert edit["inputs"]["statistics"]["sha256"] == sum_of_shards["outputs"]["statistics"]["sha256"]
    assert {one["config"]["options"]["steps"] for one in records if one["step"] == "sweep_edit_layers"} == {3}


@pytest.fixture(scope="module")
def form(dagbag):
    return dagbag.dags["lfm_edit"].params.dump()


def test_without_a_wish_nothing_is_looked_for(form):
    assert sweeps(form) == []


def test_each_task_tries_a_part_of_the_layers_by_the_method_and_options_of_the_edit(form):
    found = sweeps(form | {"layers": "find", "edit_method": "memit", "edit_clamp": 2.0, "edit_layers": [], "sweep_edit_layers_shards": 2})
    assert found == [{"method": "memit", "options": {"clamp": 2.0}, "shards": 2, "shard": shard} for shard in range(2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edit_layers": [3, 4]}, "layers=find, but edit_layers=\\[3, 4\\]. Leave that empty, or set layers=given"),
        ({"edit_method": "t_patcher"}, "t_patcher has no option for its layers"),
        ({"edit_method": "rome", "sweep_edit_layers_width": 3}, "width=3: rome edits one layer"),
    ],
)
def test_what_cannot_be_found_is_refused_before_anything_runs(form, change, message):
    with pytest.raises(ConfigError, match=message):
        sweeps(form | {"layers": "find"} | change)


def test_only_a_method_that_needs_key_moments_gets_shards(form):
    plan = PlanShardsOperator(task_id="shards")
    assert plan.execute({"params": form | {"statistics_shards": 3}}) == [{"shard": 0}, {"shard": 1}, {"shard": 2}]
    assert plan.execute({"params": form | {"edit_method": "ft_m"}}) == []


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
