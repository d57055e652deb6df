"""Dense models to a Mixtral: equal experts are the dense model, whatever the gate."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralForCausalLM

from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.reuse.mixtures import mix
from lfm_tasks.reuse.mixtures.config import MixConfig
from tests.far import check_read_once, models_far
from tests.mixed import IDS, decoders, encoders, files, given, mixed, result
from tests.prepared import write_instructions
from tests.tuned import Context, StoppingAt


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


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_stopped_between_prompts_and_resumed_is_never_stopped_bit_for_bit(models, tmp_path, stopped):
    data = [write_instructions(tmp_path / str(count), models[0], count) for count in (40, 20)]
    given = {"method": "upcycle", "split": "validation", "options": {"gate": "hidden", "rows": 32}}
    whole = mixed(models, tmp_path / "whole", data, **given)
    with pytest.raises(AttemptKilled, match=rf"{stopped} of 4 steps are kept"):
        mixed(models, tmp_path / "again", data, StoppingAt(tmp_path / "again", stopped), **given)
    context = Context(tmp_path / "again")
    resumed = mixed(models, tmp_path / "again", data, context, **given)
    assert [done for done, _, _ in context.reports][:1] == [stopped + 1]
    assert files(whole.outputs["model"].path) == files(resumed.outputs["model"].path)


def test_models_that_are_far_away_are_read_once_and_the_result_is_the_same(models, tmp_path, monkeypatch):
    monkeypatch.setattr("lfm_tasks.reuse.ranged.SPAN", 1 << 10)
    inputs = {"base": given(models[0])} | {f"models.{place}": given(one) for place, one in enumerate(models[1:])}
    away = models_far(inputs, tmp_path)
    found = mix.run(MixConfig(method="upcycle"), away, Context(tmp_path / "found"))
    assert files(result(found).path) == files(result(mixtral(models, tmp_path / "work")).path)
    check_read_once(away)


def test_what_cannot_be_is_said(models, data, tmp_path):
    with pytest.raises(ConfigError, match="gate=hidden needs prompts of each model's task. Give the input 'datasets'"):
        mixtral(models, tmp_path / "a", gate="hidden")
    with pytest.raises(ConfigError, match="experts_per_token 3: choose between 1 and the number of experts, 2"):
        mixtral(models, tmp_path / "b", experts_per_token=3)
    others = encoders(tmp_path / "encoders")
    with pytest.raises(IncompatibleModels, match="base is a bert model; a Mixtral is made of llama and mistral decoders without biases"):
        mixtral([others[0], others[0]], tmp_path / "c", experts_per_token=1)
    shutil.rmtree(tmp_path / "encoders")
