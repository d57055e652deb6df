"""RegMean++ beside the same done by hand: the merged layers loaded into each model, stage by stage."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from lfm_tasks.errors import AttemptKilled, InvalidInput
from lfm_tasks.models.forward import unpadded
from lfm_tasks.models.layer_inputs import input_products, linear_layers
from lfm_tasks.models.opening import open_classifier
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.methods import regmean_plus_plus
from lfm_tasks.reuse.methods.config import RegmeanConfig
from lfm_tasks.reuse.methods.regmean import nearest
from lfm_tasks.reuse.methods.regmean_plus_plus import stages
from lfm_tasks.reuse.tasks import open_task
from lfm_tasks.step import Input
from tests.experts import expert_inputs
from tests.tuned import Context, StoppingAt

EMBEDDINGS = ["word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Input]:
    return expert_inputs(tmp_path_factory.mktemp("plus"), (24, 25))


def merged(inputs, work, context=None, **options) -> dict[str, torch.Tensor]:
    config = MergeConfig(method="regmean_plus_plus", split="validation", options=options)
    return load_file(step.run(config, inputs, context or Context(work)).outputs["model"].path / "model.safetensors")


def test_layers_are_merged_on_the_outputs_of_the_merged_layers_before_them(inputs, tmp_path):
    found = merged(inputs, tmp_path / "work")
    models = [open_classifier(inputs[f"models.{place}"]).requires_grad_(False) for place in (0, 1)]
    own = [{name: tensor.clone() for name, tensor in model.base_model.state_dict().items()} for model in models]
    rows = [read_rows(inputs[f"datasets.{place}"].path, "validation") for place in (0, 1)]
    result = {}
    for stage in ("embeddings.", "encoder.layer.0.", "encoder.layer.1.", "pooler."):
        gathered = []
        for model, those in zip(models, rows, strict=True):
            layers = {name: layer for name, layer in linear_layers(model.base_model).items() if name.startswith(stage)}
            with torch.no_grad(), input_products(layers) as products:
                for batch in unpadded(those, 1):
                    model(**batch)
            gathered.append({name: products.mean(name) for name in products.shared})
        for name in own[0]:
            if name.startswith(stage):
                pair = [one[name] for one in own]
                matrices = [one[name] for one in gathered if name in one]
                result[name] = nearest(name, pair, matrices, 1, RegmeanConfig()).float() if matrices else sum(pair) / 2
        for model in models:
            model.base_model.load_state_dict(result, strict=False)
    assert result.keys() >= found.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, result[name], atol=2e-5, rtol=1e-4)


def test_a_numbered_layer_is_a_stage_and_so_is_each_module_outside(inputs):
    base = Checkpoint("base", "0" * 64, inputs["base"].path)
    part = Checkpoint("topics", "1" * 64, inputs["models.0"].path).inside(base)
    found = stages(open_task(inputs["models.0"], part, inputs["datasets.0"], "validation"), list(base.tensors))
    assert sorted(name for stage in found[:4] for name in stage) == sorted(f"embeddings.{name}" for name in EMBEDDINGS)
    assert [stage[0].rpartition(".")[0].rpartition(".attention")[0] for stage in found[4:6]] == ["encoder.layer.0", "encoder.layer.1"]
    assert found[6:] == [["pooler.dense.weight", "pooler.dense.bias"]]
    assert {len(stage) for stage in found[4:6]} == {16}


def test_a_model_merged_with_itself_is_itself(inputs, tmp_path):
    twice = inputs | {"models.1": inputs["models.0"], "datasets.1": inputs["datasets.0"]}
    own = load_file(inputs["models.0"].path / "model.safetensors")
    for name, tensor in merged(twice, tmp_path / "work").items():
        torch.testing.assert_close(tensor, own[f"bert.{name}"], atol=1e-7, rtol=1e-6)


def test_too_few_rows_need_a_ridge(inputs, tmp_path):
    with pytest.raises(InvalidInput, match=r"encoder.layer.0.*are singular with ridge=0 and reduction=1. Set a ridge"):
        merged(inputs, tmp_path / "work", ridge=0, reduction=1, gram_rows=1)


@pytest.mark.parametrize("stopped", [1, 5, 6, 7, 9])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(inputs, tmp_path, stopped, monkeypatch):
    """Among the four parts of the embeddings, the two layers and the pooler, none of which is solved twice; or among what is written."""
    whole = merged(inputs, tmp_path / "whole")
    kept = f"{stopped} of 7 steps of learning are kept" if stopped < 8 else "2 of 39 tensors are kept"
    with pytest.raises(AttemptKilled, match=f"Stopped on request. {kept}; the same job goes on from there"):
        merged(inputs, tmp_path / "again", StoppingAt(tmp_path / "again", stopped))
    solved = []
    monkeypatch.setattr(regmean_plus_plus, "nearest", lambda name, *given: solved.append(name) or nearest(name, *given))
    context = Context(tmp_path / "again")
    shutil.rmtree(tmp_path / "again")
    context.workdir.mkdir()
    found = merged(inputs, tmp_path / "again", context)
    assert f"Resumed: {min(stopped, 7)} of 7 steps of learning were done before." in context.lines
    assert [done for done, _, _ in context.reports] == list(range(stopped + 1, 7 + len(whole) + 1))
    assert len(solved) == {1: 13, 5: 7, 6: 1}.get(stopped, 0)
    assert found.keys() == whole.keys() and all(torch.equal(found[name], tensor) for name, tensor in whole.items())
