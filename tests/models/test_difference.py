"""The distance between two sets of weights, against the same computed on whole tensors in memory."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lfm_tasks.models import difference
from lfm_tasks.models.difference import layer_of, weight_difference


def write(directory: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> Path:
    directory.mkdir()
    names = sorted(tensors)
    for shard in range(shards):
        save_file({name: tensors[name].contiguous() for name in names[shard::shards]}, directory / f"model-{shard}.safetensors")
    return directory


def random(seed: int, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name.replace("_", "."): torch.randn(shape, generator=generator) for name, shape in shapes.items()}


SHAPES = {"layers_0_a_weight": (7, 5), "layers_0_b_weight": (3,), "layers_1_a_weight": (2, 3, 4), "head_weight": (9, 2), "scale": ()}


@pytest.mark.parametrize("at_once", [1, 6, 1 << 20])
@pytest.mark.parametrize("shards", [1, 3])
def test_it_is_what_whole_tensors_give_however_it_is_cut(tmp_path, monkeypatch, at_once, shards):
    monkeypatch.setattr(difference, "ELEMENTS_AT_ONCE", at_once)
    a, b = random(0, **SHAPES), random(1, **SHAPES)
    found = weight_difference(write(tmp_path / "a", a), write(tmp_path / "b", b, shards))
    for entry in found["tensors"]:
        x, y = a[entry["name"]].double(), b[entry["name"]].double()
        assert entry["relative"] == pytest.approx(((y - x).norm() / x.norm()).item(), rel=1e-12)
        assert entry["norm"] == pytest.approx(x.norm().item(), rel=1e-12)
    layers = {layer["name"]: layer for layer in found["layers"]}
    block = [torch.cat([t[n].double().flatten() for n in sorted(t) if n.startswith("layers.0")]) for t in (a, b)]
    assert layers["layers.0"]["relative"] == pytest.approx(((block[1] - block[0]).norm() / block[0].norm()).item(), rel=1e-12)
    assert layers["layers.0"]["tensors"] == 2
    assert list(layers) == ["head", "layers.0", "layers.1", "scale"]
    json.dumps(found, allow_nan=False)


def test_a_model_is_at_distance_zero_of_itself_and_scaling_is_seen_exactly(tmp_path):
    a = random(0, **SHAPES)
    one = write(tmp_path / "a", a)
    assert weight_difference(one, one)["relative"] == 0.0
    scaled = weight_difference(one, write(tmp_path / "b", {name: 1.5 * tensor for name, tensor in a.items()}))
    assert [entry["relative"] for entry in scaled["tensors"]] == pytest.approx([0.5] * len(a), rel=1e-6)


def test_what_cannot_be_subtracted_is_named(tmp_path):
    a = {"same": torch.ones(2), "grown": torch.ones(2, 3), "gone": torch.ones(1)}
    b = {"same": torch.ones(2, dtype=torch.bfloat16), "grown": torch.ones(4, 3), "new": torch.ones(1)}
    found = weight_difference(write(tmp_path / "a", a), write(tmp_path / "b", b))
    assert found["reshaped"] == [{"name": "grown", "first": [2, 3], "second": [4, 3]}]
    assert (found["only_in_first"], found["only_in_second"]) == (["gone"], ["new"])
    assert [(entry["name"], entry["relative"]) for entry in found["tensors"]] == [("same", 0.0)]


def test_a_change_from_nothing_and_a_broken_weight_have_no_ratio(tmp_path):
    a, b = {"zero": torch.zeros(2), "nan": torch.ones(2)}, {"zero": torch.ones(2), "nan": torch.tensor([1.0, math.nan])}
    found = weight_difference(write(tmp_path / "a", a), write(tmp_path / "b", b))
    assert {entry["name"]: entry["relative"] for entry in found["tensors"]} == {"zero": None, "nan": None}
    json.dumps(found, allow_nan=False)


def adapter(directory: Path, up: torch.Tensor, down: torch.Tensor, alpha: float, rslora: bool = False) -> Path:
    name = "base_model.model.layers.0.q_proj"
    write(directory, {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up})
    config = {"r": down.shape[0], "lora_alpha": alpha, "use_rslora": rslora}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def test_adapters_are_compared_by_what_they_add_whatever_the_factors_and_the_rank(tmp_path):
    up, down = random(0, u=(6, 2), d=(2, 5)).values()
    mix = torch.tensor([[2.0, 1.0], [0.0, 0.5]])
    same = weight_difference(
        adapter(tmp_path / "a", up, down, 4), adapter(tmp_path / "b", up @ mix, torch.linalg.inv(mix) @ down, 2 * math.sqrt(2), True)
    )
    assert same["tensors"][0]["relative"] > 0.1
    assert [(one["name"], one["relative"]) for one in same["products"]] == [("layers.0.q_proj", pytest.approx(0, abs=1e-6))]
    wide, deep = random(1, u=(6, 3), d=(3, 5)).values()
    other = weight_difference(tmp_path / "a", adapter(tmp_path / "c", wide, deep, 6))
    first, second = 2 * up.double() @ down.double(), 2 * wide.double() @ deep.double()
    assert other["products"][0]["relative"] == pytest.approx(((second - first).norm() / first.norm()).item(), rel=1e-9)
    assert {entry["name"].rpartition(".lora_")[2] for entry in other["reshaped"]} == {"A.weight", "B.weight"}


@pytest.mark.parametrize(
    "name, layer",
    [
        ("model.layers.11.mlp.up_proj.weight", "model.layers.11"),
        ("bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.0"),
        ("transformer.h.3.attn.c_attn.weight", "transformer.h.3"),
        ("lm_head.weight", "lm_head"),
        ("logit_scale", "logit_scale"),
    ],
)
def test_tensors_are_gathered_by_their_block(name, layer):
    assert layer_of(name) == layer
