"""The real packages, from the registry that pip is configured for."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from lfm_tasks.models.safety import check_model_directory
from lfm_tasks.starter.catalogue import find_starter
from lfm_tasks.starter.convert import build

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(name)``: the starter's directory."""
    root = tmp_path_factory.mktemp("starters")

    def make(name):
        scratch = root / f"{name}-scratch"
        scratch.mkdir()
        build(find_starter(name), root / "packages", scratch, root / name)
        return root / name

    return make


def test_bbc_news(made):
    directory = made("bbc-news")
    table = pq.read_table(directory / "data.parquet")
    assert table.num_rows == 2225 and table.column_names == ["text", "label"]
    source = json.loads((directory / "source.json").read_text())
    assert source["labels"] == {"business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401}
    assert source["recoded_from_cp1252"] == 1 and "£15.8m" in table["text"].to_pylist()[source_row(table)]


def source_row(table):
    return next(index for index, text in enumerate(table["text"].to_pylist()) if "Mutu, a" in text)


def test_vader_source_package(made):
    source = json.loads((made("nyt-editorials") / "source.json").read_text())
    assert source["rows"] + source["neutral_left_out"] == 5190
    assert source["rows"] == 2788


@pytest.mark.slow
def test_minilm_tells_near_from_far(made):
    import torch
    from transformers import AutoModel, AutoTokenizer

    directory = made("minilm-l6")
    check_model_directory(directory)
    model, tokenizer = (kind.from_pretrained(directory, local_files_only=True) for kind in (AutoModel, AutoTokenizer))
    batch = tokenizer(
        ["He plays the guitar.", "A musician with an instrument.", "The stock market fell."], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        hidden = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    cosines = mean[0] @ mean[1:].T
    assert cosines[0] > 0.4 > 0.2 > cosines[1]
    assert batch["input_ids"].shape[1] < 20, "the package's padding to 128 tokens is gone"


@pytest.mark.slow
def test_smollm2_knows_capitals_and_can_be_trained(made):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    directory = made("smollm2-135m-instruct")
    check_model_directory(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (answer,) = write("The capital of France is", max_new_tokens=3, do_sample=False)
    assert "Paris" in answer["generated_text"]
