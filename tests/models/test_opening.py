"""What may be opened on what: one test per message."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lfm_tasks.errors import IncompatibleModels, InvalidInput, UnsafeModel
from lfm_tasks.models.opening import check_vocabulary, fresh_modules, open_causal_lm, open_classifier, open_model
from lfm_tasks.models.saving import save_adapter
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.step import Input
from tests.toys import make_bert, make_llama

IDS = torch.tensor([[5, 6, 7, 8]])


def given(path, sha256="a" * 64, kind="model", base=None) -> Input:
    return Input(f"{kind} {path.name}", kind, sha256, path, base)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Input:
    directory = tmp_path_factory.mktemp("llama")
    make_llama(directory)
    return given(directory)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Input:
    directory = tmp_path_factory.mktemp("bert")
    make_bert(directory)
    return given(directory, "b" * 64)


@pytest.fixture
def adapter(llama, tmp_path) -> Input:
    model = get_peft_model(open_causal_lm(llama), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(0))
    save_adapter(model, tmp_path / "adapter", method="lora", base_sha256=llama.sha256, task="causal_lm")
    return given(tmp_path / "adapter", "c" * 64, "adapter", llama)


def test_a_model_is_opened_by_what_it_is(llama, tmp_path):
    make_bert(tmp_path / "classifier", labels=["x", "y"])
    expected = AutoModelForCausalLM.from_pretrained(llama.path, local_files_only=True)(IDS).logits
    torch.testing.assert_close(open_model(llama)(IDS).logits, expected)
    classifier = open_model(given(tmp_path / "classifier"))
    expected = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier", local_files_only=True)(IDS).logits
    torch.testing.assert_close(classifier(IDS).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_that_are_held_are_opened_as_those_of_the_files(tmp_path, dtype):
    """The decoder's embedding is its head too; the encoder is opened below a fresh head."""
    make_llama(tmp_path / "decoder")
    make_bert(tmp_path / "encoder")
    for name, open_ in (("decoder", open_causal_lm), ("encoder", partial(open_classifier, labels=["x", "y"]))):
        weights = tmp_path / name / "model.safetensors"
        held = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in load_file(weights).items()}
        save_file(held, weights, {"format": "pt"})
        expected = open_(given(tmp_path / name)).state_dict()
        weights.unlink()
        found = open_(given(tmp_path / name), held=held).state_dict()
        assert found.keys() == expected.keys() and all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_an_adapter_changes_the_base_and_names_it_by_hash(llama, adapter):
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"sha256:{llama.sha256}"
    assert not (adapter.path / "README.md").exists()
    assert not torch.allclose(open_model(adapter)(IDS).logits, open_model(llama)(IDS).logits, atol=1e-3)


def test_tensors_of_an_adapter_replace_those_of_the_base(llama, tmp_path):
    gain = torch.full((32,), 3.0)
    save_adapter(None, tmp_path / "a", method="bitfit", base_sha256=llama.sha256, task="causal_lm", tensors={"model.norm.weight": gain})
    opened = open_model(given(tmp_path / "a", kind="adapter", base=llama))
    assert torch.equal(opened.model.norm.weight, gain)


def test_an_adapter_on_the_wrong_base_is_refused_and_both_are_named(adapter):
    wrong = replace(adapter, base=replace(adapter.base, sha256="f" * 64))
    with pytest.raises(IncompatibleModels, match=f"made for the base sha256:{'a' * 64}.*given is sha256:{'f' * 64}"):
        open_model(wrong)


def test_an_adapter_without_its_base_is_refused(adapter):
    with pytest.raises(IncompatibleModels, match="which was not given"):
        open_model(replace(adapter, base=None))


def test_an_adapter_that_names_no_base_is_refused(adapter):
    (adapter.path / "lfm_adapter.json").unlink()
    with pytest.raises(InvalidInput, match=r"no lfm_adapter.json"):
        open_model(adapter)


def test_an_adapter_whose_tensors_the_base_lacks_is_refused(llama, tmp_path):
    save_adapter(None, tmp_path / "a", method="bitfit", base_sha256=llama.sha256, task="causal_lm", tensors={"no.bias": torch.ones(3)})
    with pytest.raises(IncompatibleModels, match="'no.bias'"):
        open_model(given(tmp_path / "a", kind="adapter", base=llama))


@pytest.mark.parametrize(
    ("shape", "why"),
    [({"hidden": 64}, "size mismatch for .*torch.Size"), ({"layers": 1}, r"layers\.1\..*only")],
    ids=["wider", "fewer layers"],
)
def test_an_adapter_whose_tensors_do_not_fit_is_refused(adapter, tmp_path, shape, why):
    make_llama(tmp_path / "other", **shape)
    base = given(tmp_path / "other", adapter.base.sha256)
    with pytest.raises(
        IncompatibleModels, match=f"adapter adapter does not fit its base sha256:a{{64}}: .*{why}.*Use the base that it was"
    ):
        open_model(replace(adapter, base=base))


def test_an_encoder_generates_no_text(encoder):
    with pytest.raises(IncompatibleModels, match="bert model, which generates no text"):
        open_causal_lm(encoder)


def test_a_model_that_is_no_classifier_needs_labels(encoder):
    with pytest.raises(IncompatibleModels, match="is no classifier"):
        open_classifier(encoder)


def test_a_fresh_head_is_drawn_from_the_seed_and_leaves_the_generator_alone(encoder):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (open_classifier(encoder, ["x", "y", "z"], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    assert fresh_modules(first) == ["classifier"]
    assert first.config.label2id == {"x": 0, "y": 1, "z": 2}


def test_an_unknown_architecture_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hyperlstm"}))
    with pytest.raises(IncompatibleModels, match="'hyperlstm'"):
        open_model(given(tmp_path))


def test_a_directory_without_a_config_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"config.json"):
        open_model(given(tmp_path))


def test_a_model_that_brings_code_is_refused(tmp_path):
    make_llama(tmp_path / "model")
    (tmp_path / "model" / "modeling.py").write_text("")
    with pytest.raises(UnsafeModel):
        open_model(given(tmp_path / "model"))


def test_a_data_set_is_no_model(tmp_path):
    with pytest.raises(InvalidInput, match="is a dataset"):
        open_model(given(tmp_path, kind="dataset"))


def test_a_data_set_of_another_tokenizer_or_vocabulary_is_refused(llama):
    model, digest = open_causal_lm(llama), tokenizer_digest(llama.path)
    rows = model.config.vocab_size
    check_vocabulary(model, digest, {"tokenizer_sha256": digest, "vocabulary": rows})
    with pytest.raises(IncompatibleModels, match="was prepared with the tokenizer 9999"):
        check_vocabulary(model, digest, {"tokenizer_sha256": "9" * 64, "vocabulary": rows})
    with pytest.raises(IncompatibleModels, match=f"{rows + 1:,} tokens, the model embeds {rows:,}"):
        check_vocabulary(model, digest, {"tokenizer_sha256": digest, "vocabulary": rows + 1})
