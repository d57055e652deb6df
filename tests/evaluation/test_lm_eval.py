"""The optional backend: what it says without its package, that its task files fit our rows, and that both backends agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lfm_tasks.errors import ConfigError
from lfm_tasks.evaluation import lm_eval_backend
from lfm_tasks.evaluation.choice import Choice
from lfm_tasks.evaluation.classification import Classification
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.evaluate import run
from lfm_tasks.evaluation.lm_eval_backend import TASK_FILES, TASK_OF, Harness, documents, task_config
from lfm_tasks.metrics.samples import read_samples
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.step import Input
from tests.prepared import write_instructions, write_labelled, write_texts
from tests.toys import make_bert, make_llama
from tests.tuned import Context


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(lm_eval_backend, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("Run `pip install 'lfm-tasks[lm-eval]'`, or use backend 'builtin'")):
        Harness(Choice())


def test_the_harness_has_no_task_for_classifiers(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(lm_eval_backend, "find_spec", lambda name: object())
    make_bert(tmp_path / "bert")
    rows = read_rows(write_labelled(tmp_path / "data", tmp_path / "bert"), "test")
    with pytest.raises(ConfigError, match="no task for 'classification'; it has choice, generation.*'builtin'"):
        Harness(Classification()).check(rows)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("toy")
    make_llama(directory / "model")
    write_instructions(directory / "choice", directory / "model", labels=["tech", "a much longer label", "sport"])
    write_instructions(directory / "generation", directory / "model", choices=False)
    write_texts(directory / "general", directory / "model")
    return directory


@pytest.mark.parametrize("group", ["choice", "generation", "general"])
def test_task_files_read_fields_that_our_rows_have(toy: Path, group: str):
    rows = read_rows(toy / group, "test")
    task = task_config(TASK_OF[group], toy / "test.jsonl", EvaluateConfig(max_new_tokens=9))
    templates = " ".join(str(task[key]) for key in ("doc_to_text", "doc_to_target", "doc_to_choice") if key in task)
    wanted = set(re.findall(r"{{(\w+)}}", templates)) | ({"label"} & {task["doc_to_target"]})
    assert all(wanted == document.keys() for document in documents(group, rows))
    assert task["dataset_kwargs"] == {"data_files": {"test": str(toy / "test.jsonl")}}
    assert task.get("generation_kwargs", {}).get("max_gen_toks", 9) == 9


def test_every_task_file_is_plain_data_that_a_group_uses():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in TASK_FILES.glob("*.yaml")}
    assert files.keys() == set(TASK_OF.values())
    assert all(task["task"] == name for name, task in files.items())


@pytest.mark.slow
@pytest.mark.parametrize(("group", "marks"), [("choice", []), ("generation", []), ("generation", [":"])])
def test_both_backends_give_equal_answers(tmp_path: Path, toy: Path, group: str, marks: list[str]):
    inputs = {"model": Input("m", "model", "a" * 64, toy / "model"), "dataset": Input("d", "dataset", "d" * 64, toy / group)}
    tables = []
    for backend in ("builtin", "lm_eval"):
        config = EvaluateConfig(backend=backend, bootstrap_samples=100, max_new_tokens=5, answer_marks=marks)
        outcome = run(config, inputs, Context(tmp_path / backend))
        tables.append(read_samples(outcome.outputs["report"].path / "samples.parquet").to_pylist())
    for ours, theirs in zip(*tables, strict=True):
        assert (ours["sample_id"], ours["prediction"], ours["correct"]) == (theirs["sample_id"], theirs["prediction"], theirs["correct"])
        assert ours["text"] == theirs["text"] and (ours["text"] is None) == (not marks)
        assert ours["nll"] == pytest.approx(theirs["nll"], abs=1e-3)
