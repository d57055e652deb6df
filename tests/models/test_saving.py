"""A model artifact has one set of bytes, and both Hugging Face and a stock MLflow load it."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lfm_tasks.models.saving import mlmodel, pipeline_task, save_model
from tests.toys import make_bert, make_llama

IDS = torch.tensor([[5, 6, 7, 8]])


def digests(directory) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_model_saved_twice_has_the_same_bytes_and_names_no_path(tmp_path):
    made = make_llama(tmp_path / "made")
    save_model(made, tmp_path / "made", tmp_path / "one")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "one", local_files_only=True)
    save_model(opened, AutoTokenizer.from_pretrained(tmp_path / "one", local_files_only=True), tmp_path / "elsewhere" / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "elsewhere" / "two")
    for path in (tmp_path / "one").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()


def test_a_tokenizer_given_as_a_directory_keeps_its_bytes(tmp_path):
    model = make_llama(tmp_path / "base")
    source = tmp_path / "base" / "tokenizer.json"
    source.write_text(json.dumps(json.loads(source.read_text())))
    save_model(model, tmp_path / "base", tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == source.read_bytes()


def test_a_decoder_loads_in_hugging_face_and_in_mlflow(tmp_path):
    import mlflow

    model = make_llama(tmp_path / "base")
    save_model(model, tmp_path / "base", tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", local_files_only=True)
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)
    pipeline = mlflow.transformers.load_model(str(tmp_path / "saved"))
    torch.testing.assert_close(pipeline.model(IDS).logits, model(IDS).logits)
    assert pipeline("Article:", max_new_tokens=3)[0]["generated_text"].startswith("Article:")
    answers = mlflow.pyfunc.load_model(str(tmp_path / "saved")).predict(["Article: a", "Article: b"])
    assert len(answers) == 2


def test_a_classifier_loads_in_hugging_face_and_in_mlflow_with_its_labels(tmp_path):
    import mlflow

    labels = ["bad", "good"]
    model = make_bert(tmp_path / "base", labels=["0", "1"])
    save_model(model, tmp_path / "base", tmp_path / "saved", labels=labels)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", local_files_only=True)
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    assert mlflow.transformers.load_model(str(tmp_path / "saved"))("a film")[0]["label"] in labels
    table = mlflow.pyfunc.load_model(str(tmp_path / "saved")).predict(["a film", "another"])
    assert set(table["label"]) <= set(labels) and len(table) == 2


def test_an_encoder_loads_as_features(tmp_path):
    import mlflow

    model = make_bert(tmp_path / "base")
    save_model(model, tmp_path / "base", tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved", local_files_only=True)
    torch.testing.assert_close(loaded(IDS).last_hidden_state, model(IDS).last_hidden_state)
    features = mlflow.transformers.load_model(str(tmp_path / "saved"))("a film")
    assert len(features[0][0]) == model.config.hidden_size


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("RobertaForSequenceClassification", "text-classification"),
        ("BertModel", "feature-extraction"),
    ],
)
def test_the_flavour_follows_the_architecture(architecture, task):
    assert pipeline_task(architecture) == task
    flavours = mlmodel(architecture, "TokenizersBackend")["flavors"]
    assert flavours["transformers"]["task"] == flavours["python_function"]["task"] == task
