"""The step restack on toy models: laws of the result, files that stock tools open, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.reuse import restack as step
from lfm_tasks.reuse.restack_config import RestackConfig
from lfm_tasks.step import Input
from tests.toys import make_bert, make_llama, make_tokenizer
from tests.tuned import Context

TOKENS = torch.tensor([[5, 6, 7, 90, 33]])
SILENT = {"*o_proj*": 0.0, "*down_proj*": 0.0}


@pytest.fixture(scope="module")
def llamas(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("llamas")
    for seed, name in enumerate(("one", "two")):
        make_llama(root / name, layers=3, seed=seed)
    return [root / "one", root / "two"]


def restacked(directories: list[Path], work: Path, slices: list[dict], **values) -> Path:
    inputs = {f"models.{place}": Input(path.name, "model", path.name, path) for place, path in enumerate(directories)}
    config = parse_config(RestackConfig, {"slices": slices, **values})
    return step.run(config, inputs, Context(work)).outputs["model"].path


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(directory)(TOKENS).logits


def test_all_layers_in_their_order_are_the_same_bytes(llamas, tmp_path):
    sharded = tmp_path / "sharded"
    make_llama(sharded, layers=3)
    model = AutoModelForCausalLM.from_pretrained(sharded)
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="30KB")
    for directory in (llamas[0], sharded):
        result = restacked([directory], tmp_path / f"{directory.name}-work", [{"layers": [0, 2]}, {"layers": [2, 3]}])
        files = sorted(path.name for path in directory.glob("*.safetensors"))
        assert len(files) > 1 or directory is not sharded
        for name in (*files, "config.json", "tokenizer.json"):
            assert (result / name).read_bytes() == (directory / name).read_bytes(), name


def test_layers_that_add_nothing_change_no_output(llamas, tmp_path):
    deeper = restacked(llamas[:1], tmp_path / "work", [{"layers": [0, 3]}, {"layers": [1, 3], "scale": SILENT}])
    assert json.loads((deeper / "config.json").read_text())["num_hidden_layers"] == 5
    assert torch.equal(logits(deeper), logits(llamas[0]))
    loud = restacked(llamas[:1], tmp_path / "loud", [{"layers": [0, 3]}, {"layers": [1, 3]}])
    assert not torch.allclose(logits(loud), logits(llamas[0]), atol=1e-3)


def test_slices_of_several_models_scaled(llamas, tmp_path):
    scale = {"*o_proj*": 0.5, "*attn.*": -2.0}
    slices = [{"layers": [0, 1]}, {"model": 1, "layers": [0, 3], "scale": scale}, {"layers": [2, 3]}]
    result = restacked(llamas, tmp_path / "work", slices)
    found, one, two = (load_file(path / "model.safetensors") for path in (result, *llamas))
    sources = [(one, 0), (two, 0), (two, 1), (two, 2), (one, 2)]
    for name, tensor in found.items():
        if ".layers." not in name:
            assert torch.equal(tensor, one[name])
            continue
        layer = int(name.split(".")[2])
        tensors, number = sources[layer]
        factor = (0.5 if "o_proj" in name else 1) * (-2.0 if "attn." in name else 1) if tensors is two else 1
        assert torch.equal(tensor, factor * tensors[name.replace(f"layers.{layer}.", f"layers.{number}.")])
    assert logits(result).isfinite().all()
    framed = load_file(restacked(llamas, tmp_path / "framed", [{"layers": [0, 1]}], frame=1) / "model.safetensors")
    assert torch.equal(framed["model.norm.weight"], two["model.norm.weight"])
    assert torch.equal(framed["model.embed_tokens.weight"], two["model.embed_tokens.weight"])


def test_other_architectures_name_layers_and_their_number_otherwise(tmp_path):
    """GPT-2: ``h.0.…`` and n_layer, with as many heads as layers; BERT: ``bert.encoder.layer.0.…``."""
    make_tokenizer(tmp_path / "gpt2")
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=4, n_head=4, n_positions=64)).eval().save_pretrained(tmp_path / "gpt2")
    silent = {"*.c_proj.*": 0}
    result = restacked([tmp_path / "gpt2"], tmp_path / "work", [{"layers": [0, 4]}, {"layers": [0, 2], "scale": silent}])
    assert torch.equal(logits(result), logits(tmp_path / "gpt2"))
    make_bert(tmp_path / "bert", labels=["a", "b"])
    result = restacked([tmp_path / "bert"], tmp_path / "bert-work", [{"layers": [0, 1]}])
    assert len(AutoModelForSequenceClassification.from_pretrained(result).bert.encoder.layer) == 1


def test_settings_with_an_entry_for_each_layer_follow_the_layers(tmp_path):
    make_llama(tmp_path / "one", layers=3)
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps(config | {"layer_types": ["conv", "moe", "hybrid"]}))
    result = restacked([tmp_path / "one"], tmp_path / "work", [{"layers": [1, 3]}, {"layers": [0, 2]}])
    assert json.loads((result / "config.json").read_text())["layer_types"] == ["moe", "hybrid", "conv", "moe"]


@pytest.mark.parametrize(
    ("slices", "says"),
    [
        ([{"layers": [0, 4]}], r"Layers \[0, 4\] of one: it has 3, numbered from 0"),
        ([{"model": 2, "layers": [0, 1]}], "Model 2 is named, but 2 were given"),
        ([{"layers": [0, 1], "scale": {"*conv*": 0}}], r"scale: no tensor of one in layers \[0, 1\] is named '\*conv\*'"),
        ([{"layers": [0, 1]}, {"model": 1, "layers": [1, 2]}], r"Layers \[1\] of wide have other tensors or shapes than those of one"),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_refused(llamas, tmp_path, slices, says):
    make_llama(tmp_path / "wide", hidden=48, layers=3)
    with pytest.raises(IncompatibleModels, match=says):
        restacked([llamas[0], tmp_path / "wide"], tmp_path / "work", slices)


def test_a_slice_without_layers_is_refused():
    with pytest.raises(ConfigError, match=r"\[3, 3\] holds no layer. Give the first, and the one after the last"):
        parse_config(RestackConfig, {"slices": [{"layers": [3, 3]}]})


def test_an_ambiguous_number_of_layers_is_refused(tmp_path):
    make_llama(tmp_path / "one", layers=3)
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps(config | {"num_decoder_layers": 3}))
    with pytest.raises(IncompatibleModels, match="that say so: num_decoder_layers, num_hidden_layers. It must be one"):
        restacked([tmp_path / "one"], tmp_path / "work", [{"layers": [0, 1]}])
