"""What the step *prepare* writes, the step *evaluate* reads: adapters, chat templates and completions included."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.data.prepare import run as prepare
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.evaluate import run as evaluate
from lfm_tasks.models.saving import save_adapter
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.step import Input
from tests.prepared import TOPICS, sentence
from tests.toys import make_llama
from tests.tuned import Context


def prepared(directory: Path, model: Path, **options) -> Path:
    raw = directory / "raw"
    raw.mkdir(parents=True)
    rows = [{"text": sentence(index, 12), "label": TOPICS[index % len(TOPICS)]} for index in range(80)]
    (raw / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {"data": Input("raw", "dataset", "0" * 64, raw), "model": Input("m", "model", "a" * 64, model)}
    return prepare(PrepareConfig(max_length=128, **options), inputs, Context(directory / "work")).outputs["dataset"].path


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_the_choice_of_the_right_label_is_the_completion_that_was_prepared(tmp_path: Path, template: str):
    make_llama(tmp_path / "model")
    data = prepared(tmp_path, tmp_path / "model", template=template)
    tokenizer, completions = open_tokenizer(tmp_path / "model"), json.loads((data / "dataset.json").read_text())["completions"]
    rows = pq.read_table(data / "test.parquet").to_pylist()
    assert rows
    for row in rows:
        asked = tokenizer.encode(completions[row["label"]], add_special_tokens=False)
        start = row["prompt_tokens"]
        assert row["input_ids"][start : start + len(asked)] == asked
        assert len(row["input_ids"]) - start - len(asked) <= 1


def test_an_adapter_is_evaluated_as_its_base_with_the_changed_tensors(tmp_path: Path):
    model = make_llama(tmp_path / "model")
    data = prepared(tmp_path, tmp_path / "model")
    base = Input("base", "model", "a" * 64, tmp_path / "model")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = {"same": {name: model.get_parameter(name)}, "other": {name: model.get_parameter(name) * 3}}
    found = {}
    for kind, changed in tensors.items():
        save_adapter(None, tmp_path / kind, method="bitfit", base_sha256="a" * 64, task="causal_lm", tensors=changed)
        adapter = Input(kind, "adapter", "b" * 64, tmp_path / kind, base=base)
        inputs = {"model": adapter, "dataset": Input("d", "dataset", "d" * 64, data)}
        found[kind] = evaluate(EvaluateConfig(bootstrap_samples=100), inputs, Context(tmp_path / f"{kind}-work")).metrics
    inputs = {"model": base, "dataset": Input("d", "dataset", "d" * 64, data)}
    plain = evaluate(EvaluateConfig(bootstrap_samples=100), inputs, Context(tmp_path / "plain")).metrics
    assert found["same"] == plain
    assert found["other"]["choice/brier"] != plain["choice/brier"]
