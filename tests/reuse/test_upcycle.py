"""Dense models to a Mixtral: equal experts are the dense model, whatever the gate."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralForCausalLM

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.opening import open_causal_lm
from tests.mixed import IDS, decoders, encoders, given, mixed, result
from tests.prepared import write_instructions


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return decoders(tmp_path_factory.mktemp("decoders"))


@pytest.fixture(scope="module")
def data(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    made = [write_instructions(root / str(count), models[0], count) for count in (6, 20)]
    for directory in made:
        (directory / "test.parquet").unlink()
    return made


def mixtral(models, work, data=(), **options):
    return mixed(models, work, data, method="upcycle", split="validation", options=options)


@pytest.mark.parametrize("gate", ["uniform", "random", "hidden"])
def test_equal_experts_are_the_dense_model(models, data, tmp_path, gate):
    same = [models[0], models[0], models[0]]
    made = result(mixtral(same, tmp_path / "work", data if gate == "hidden" else (), gate=gate))
    opened = AutoModelForCausalLM.from_pretrained(made.path)
    assert type(opened) is MixtralForCausalLM
    expected = open_causal_lm(given(models[0]))(IDS).logits
    torch.testing.assert_close(opened(IDS).logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(open_causal_lm(made)(IDS).logits, expected, atol=1e-5, rtol=1e-4)
    assert "MixtralForCausalLM" in (made.path / "MLmodel").read_text()


def test_every_expert_s_feed_forwards_are_there_and_the_rest_is_the_base_s(models, tmp_path):
    outcome = mixtral(models, tmp_path / "work", experts_per_token=1)
    tensors = load_file(result(outcome).path / "model.safetensors")
    base, *experts = (load_file(directory / "model.safetensors") for directory in models)
    for place, expert in enumerate(experts):
        for ours, theirs in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            name = f"model.layers.1.block_sparse_moe.experts.{place}.{ours}.weight"
            assert torch.equal(tensors[name], expert[f"model.layers.1.mlp.{theirs}.weight"])
    shared = [name for name in base if ".mlp." not in name]
    assert all(torch.equal(tensors[name], base[name]) for name in shared)
    assert outcome.metrics["extra_parameters"] == 2 * 3 * 32 * 64 + 2 * 2 * 32
    config = json.loads((result(outcome).path / "config.json").read_text())
    assert (config["num_local_experts"], config["num_experts_per_tok"], config["tie_word_embeddings"]) == (2, 1, True)


def test_a_gate_of_prompts_is_the_direction_of_what_the_base_s_feed_forwards_see(models, data, tmp_path):
    made = load_file(result(mixtral(models, tmp_path / "work", data, gate="hidden")).path / "model.safetensors")
    model, seen = open_causal_lm(given(models[0])), []
    model.model.layers[1].mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(0, 1)))
    import pyarrow.parquet as pq

    for row in pq.read_table(data[0] / "validation.parquet").to_pylist():
        model(torch.tensor([row["input_ids"][: row["prompt_tokens"]]]))
    mean = torch.cat(seen).mean(0)
    torch.testing.assert_close(made["model.layers.1.block_sparse_moe.gate.weight"][0], mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_is_said(models, data, tmp_path):
    with pytest.raises(ConfigError, match="gate=hidden needs prompts of each model's task. Give the input 'datasets'"):
        mixtral(models, tmp_path / "a", gate="hidden")
    with pytest.raises(ConfigError, match="experts_per_token 3: choose between 1 and the number of experts, 2"):
        mixtral(models, tmp_path / "b", experts_per_token=3)
    others = encoders(tmp_path / "encoders")
    with pytest.raises(IncompatibleModels, match="base is a bert model; a Mixtral is made of llama and mistral decoders without biases"):
        mixtral([others[0], others[0]], tmp_path / "c", experts_per_token=1)
    shutil.rmtree(tmp_path / "encoders")
