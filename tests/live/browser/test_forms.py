"""Every DAG is started from its form in the browser, filled in as an operator would, and does what the form says."""

from __future__ import annotations

import os

import pytest

from tests import images
from tests.experts import make_experts
from tests.live.browser.forms import trigger
from tests.live.conftest import SUBJECTS, pause, wait_for_dags
from tests.teacher_server import TeacherServer

pytestmark = [pytest.mark.live, pytest.mark.slow]
NAME = "from-forms"
PROMPT = {"Prepare data: Prompt": {"prepare_prompt_template": "Article: {text}\nTopic:"}}
DAGS = (
    "lfm_retrain",
    "lfm_sweep",
    "lfm_merge",
    "lfm_merge_search",
    "lfm_edit",
    "lfm_distill",
    "lfm_distill_data_free",
    "lfm_learn_from_teacher",
    "lfm_promote",
    "lfm_rollback",
    "lfm_replay",
    "lfm_collect",
    "lfm_maintain",
)


@pytest.fixture(scope="module", autouse=True)
def teacher():
    """A real server that knows the topics; it is there before the stack, which is told whom it may ask."""
    with TeacherServer(answer=lambda text: next(topic for topic, word in SUBJECTS.items() if word in text)) as server:
        os.environ["LFM_TEACHER_ENDPOINTS"] = server.url
        yield server
    del os.environ["LFM_TEACHER_ENDPOINTS"]


@pytest.fixture(scope="module")
def operated(live):
    """The live stack with all DAGs on, and a model that lfm_adapt made champion of ``NAME``."""
    wait_for_dags(live.stack, *DAGS)
    live.succeeds(live.trigger(promote_model_name=NAME))
    return live


@pytest.fixture
def run(page, operated):
    """``run(dag_id, sections)``: the records of the run that the filled-in form starts, by task id."""

    def started(dag_id, sections):
        run_id = trigger(page, operated, dag_id, sections)
        page.goto("about:blank")  # Airflow's page about a run takes half a core from it
        operated.succeeds(run_id, dag_id=dag_id)
        return operated.records(run_id)

    return started


def rows(live):
    return f"file://{live.data}/rows.jsonl"


def champion(live):
    version = live.client.get_model_version_by_alias(NAME, "champion")
    return version.version, version.tags["lfm.sha256"]


def test_evaluate(run, operated):
    """On for this run alone: it begins by itself wherever a model is made, with the data set of its form."""
    wait_for_dags(operated.stack, "lfm_evaluate")
    found = run("lfm_evaluate", {"What to work on": {"model": f"models:/{NAME}@champion", "data": rows(operated)}, **PROMPT})
    assert found["evaluate"]["inputs"]["model"]["sha256"] == champion(operated)[1]
    pause(operated.stack, "lfm_evaluate")


def test_retrain(run, operated):
    found = run(
        "lfm_retrain",
        {
            "What to work on": {"model": f"file://{operated.data}/model", "data": rows(operated), "general": ""},
            **PROMPT,
            "Tune: Method": {"tune_method": "Full fine-tuning"},
            "Tune: Optimiser": {"tune_learning_rate": "0.01"},
            "Tune: Length": {"tune_epochs": "2"},
            "Promote: Promotion": {"promote_model_name": "retrained-by-form", "promote_approval": "Never"},
        },
    )
    assert found["novelty"]["summary"]["new"] is True
    assert found["tune"]["config"]["epochs"] == 2 and found["promote"]["config"]["model_name"] == "retrained-by-form"


def test_sweep(run, operated):
    found = run(
        "lfm_sweep",
        {
            "What to work on": {"model": f"file://{operated.data}/model", "data": rows(operated)},
            "Sweep: What to try": {"sweep_grid": '{"learning_rate": [0.01, 0.001]}'},
            **PROMPT,
            "Tune: Method": {"tune_method": "Full fine-tuning"},
            "Tune: Length": {"tune_epochs": "1"},
        },
    )
    tried = [one["settings"] for one in found["select"]["config"]["candidates"]]
    assert tried == [{"learning_rate": 0.01}, {"learning_rate": 0.001}]


@pytest.fixture(scope="module")
def sources(operated):
    """The section of the form that names two experts, their data and their base."""
    made = make_experts(operated.data / "experts")
    return {"What to work on": {"models": "\n".join(made["models"]), "data": "\n".join(made["data"]), "base": made["base"]}}


def test_merge(run, sources):
    found = run("lfm_merge", {**sources, "Merge: Method": {"merge_method": "TIES"}})
    assert found["merge"]["method"] == "ties"
    assert [one["name"] for one in found["compare"]["summary"]["subjects"]] == [
        "base",
        "topics.jsonl expert",
        "moods.jsonl expert",
        "ties",
    ]


def test_merge_search(run, sources):
    search = {"search_merge_search": '{"scale": {"low": 0, "high": 1}, "density": {"low": 0.1, "high": 0.9}}'}
    search |= {"search_merge_strategy": "cma", "search_merge_trials": "8"}
    form = {**sources, "Search a merge: Search": search, "Search a merge: Result": {"search_merge_seed": "5"}}
    found = run("lfm_merge_search", form)
    config = found["search"]["config"]
    assert (config["strategy"], config["trials"], config["seed"]) == ("cma", 8, 5)
    assert config["search"]["scale"] == {"low": 0.0, "high": 1.0}
    assert found["evaluate"]["config"]["split"] == "test"
    assert [one["name"] for one in found["compare"]["summary"]["subjects"]][-2:] == ["task_arithmetic", "ties"]


def test_edit(run, operated):
    fact = '[{"subject": "parliament", "prompt": "The minister told {} about", "target_new": "the market"}]'
    found = run(
        "lfm_edit",
        {
            "What to work on": {"model": f"file://{operated.data}/model", "facts": "", "corpus": rows(operated), "general": ""},
            "Import facts: Facts": {"import_facts_facts": fact},
            "Edit: Method": {"edit_method": "FT-M"},
            "Edit: Guards": {"edit_guard": "Off"},
            "Evaluate edits: Evaluation": {"evaluate_edits_unknown": "Hand them on with the others"},
            "Promote: Promotion": {"promote_model_name": "edited-by-form", "promote_approval": "Never"},
        },
    )
    assert found["facts"]["config"]["facts"][0]["subject"] == "parliament"
    assert found["edit"]["method"] == "ft_m" and found["edit"]["metrics"]["facts_edited"] == 1
    assert found["evaluate_challenger"]["inputs"]["model"]["sha256"] == found["edit"]["outputs"]["model"]["sha256"]


def test_distill(run, operated):
    found = run(
        "lfm_distill",
        {
            "What to work on": {"teacher": f"file://{operated.data}/model", "data": rows(operated), "general": ""},
            **PROMPT,
            "Cut a student: Depth": {"cut_student_depth": "1"},
            "Distill: Method": {"distill_method": "Skew KL", "distill_alpha": "0.7"},
            "Distill: Length": {"distill_max_steps": "2"},
            "Judge a student: Quality": {"judge_student_min_retained": "0"},
            "Judge a student: Speed": {"judge_student_min_speedup": "0", "judge_student_rows": "4"},
            "Promote: Promotion": {"promote_model_name": "distilled-by-form", "promote_approval": "Never"},
        },
    )
    assert (found["distill"]["method"], found["distill"]["config"]["alpha"], found["baseline"]["config"]["alpha"]) == ("skew_kl", 0.7, 0)
    assert found["distill"]["inputs"]["student"]["sha256"] == found["cut"]["outputs"]["model"]["sha256"]
    assert {"retained", "speedup"} <= found["judge"]["metrics"].keys() and found["gate"]["summary"]["outcome"]


def test_distill_data_free(run, operated):
    for name, write in (("teacher", images.trained), ("student", lambda: images.toy(seed=5))):
        images.write(write(), operated.data / name)
    small = {"rounds": "2", "images": "16", "student_steps": "2", "width": "4"}
    found = run(
        "lfm_distill_data_free",
        {
            "What to work on": {name: f"file://{operated.data}/{name}" for name in ("teacher", "student")},
            "Distill without data: Method": {"distill_data_free_method": "DFAD, ZSKT"},
            "Distill without data: method options": {f"distill_data_free_{name}": value for name, value in small.items()},
            "Distill without data: Student": {"distill_data_free_batch_size": "8"},
        },
    )
    assert found.keys() == {"distill"} and found["distill"]["method"] == "dfad" and found["distill"]["metrics"]["teacher_queries"] > 0


def test_learn_from_teacher(run, operated, teacher):
    found = run(
        "lfm_learn_from_teacher",
        {
            "What to work on": {"model": f"file://{operated.data}/model", "data": rows(operated), "general": ""},
            "Prepare data: Prompt": {"prepare_prompt_template": "Article: {text}\nTopic:"},
            "Ask a teacher: Questions": {"ask_teacher_max_questions": "20"},
            "Ask a teacher: method options": {"ask_teacher_endpoint": teacher.url, "ask_teacher_model": "oracle"},
            "Tune: Method": {"tune_method": "Full fine-tuning"},
            "Tune: Length": {"tune_epochs": "1"},
            "Promote: Promotion": {"promote_model_name": "taught-by-form", "promote_approval": "Never"},
        },
    )
    assert found["ask_teacher"]["metrics"]["asked/rows"] == 20 == sum(teacher.answered.values())
    assert found["tune"]["inputs"]["dataset"]["sha256"] == found["prepare_answers"]["outputs"]["dataset"]["sha256"]


def test_promote_without_general_text_leaves_a_doubt_and_asks_nobody(run, operated):
    sha256 = champion(operated)[1]
    base = f"file://{operated.data}/model"
    found = run(
        "lfm_promote",
        {
            "What to work on": {"model": f"sha256:{sha256}", "data": rows(operated), "general": "", "baseline": base},
            **PROMPT,
            "Promote: Promotion": {"promote_model_name": "promoted-by-form", "promote_approval": "Never"},
        },
    )
    said = found["promote"]["summary"]
    assert found["evaluate_challenger"]["inputs"]["model"]["sha256"] == sha256
    assert said["moved"] is False and any("general/perplexity" in reason for reason in said["reasons"]), said


def test_rollback_is_a_dry_run_at_first(run, operated):
    before = champion(operated)
    found = run(
        "lfm_rollback",
        {"What to roll back": {"model_name": NAME, "version": before[0]}, "Roll back: Rollback": {"rollback_reason": "From the form."}},
    )
    assert found["rollback"]["config"]["dry_run"] is True and found["rollback"]["summary"]["moved"] is False
    assert champion(operated) == before


def test_replay(run, operated):
    found = run("lfm_replay", {"What to rebuild": {"artifact": f"models:/{NAME}@champion"}, "Replay: Replay": {"replay_tolerance": "0"}})
    assert found["replay"]["inputs"]["artifact"]["sha256"] == champion(operated)[1]


def test_collect_lists_and_deletes_nothing(run, operated):
    before = len(list(operated.store.records()))
    found = run("lfm_collect", {"Collect garbage: Collection": {"collect_keep_days": "0"}})
    assert found["collect"]["config"]["keep_days"] == 0 and found["collect"]["config"]["delete"] == []
    assert len(list(operated.store.records())) > before


def test_maintain_asks_nothing(page, operated):
    operated.succeeds(trigger(page, operated, "lfm_maintain", {}), 120, "lfm_maintain")
