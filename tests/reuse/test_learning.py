"""A model's task as a function of the weights being merged: the same logits as the models themselves give."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.forward import forward
from lfm_tasks.models.opening import open_classifier, open_with_head
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.tasks import open_task
from lfm_tasks.step import Input
from tests.experts import expert_inputs
from tests.prepared import write_instructions
from tests.toys import make_llama
from tests.tuned import Context


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Input]:
    """Two classifiers of other classes on one bare base, with rows of each one's task."""
    return expert_inputs(tmp_path_factory.mktemp("learning"))


def opened(source: Input) -> Checkpoint:
    return Checkpoint(source.reference, source.sha256, source.path)


def read_all(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_a_task_reads_any_backbone_with_its_own_head(inputs):
    base = opened(inputs["base"])
    parts = [opened(inputs[f"models.{place}"]).inside(base) for place in (0, 1)]
    task = open_task(inputs["models.1"], parts[1], inputs["datasets.1"], "validation")
    batch = next(task.stream(8, seed=3))
    own = forward(open_classifier(inputs["models.1"]), batch)
    assert torch.equal(task.logits(read_all(parts[1]), batch), own)
    other = forward(open_with_head(inputs["models.0"], inputs["models.1"]), batch)
    assert torch.equal(task.logits(read_all(parts[0]), batch), other)
    assert not torch.allclose(own, other)


def test_logits_have_a_gradient_by_the_merged_tensors_only(inputs):
    part = opened(inputs["models.0"]).inside(opened(inputs["base"]))
    task = open_task(inputs["models.0"], part, inputs["datasets.0"], "validation")
    tensors = {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in read_all(part).items()}
    task.logits(tensors, next(task.stream(4, seed=0))).logsumexp(-1).sum().backward()
    assert tensors["encoder.layer.0.intermediate.dense.weight"].grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in task.module.parameters())


def test_a_decoder_is_asked_for_the_token_after_its_prompt(tmp_path):
    make_llama(tmp_path / "llama")
    model = Input("llama", "model", "1" * 64, tmp_path / "llama")
    rows = Input("rows", "dataset", "2" * 64, write_instructions(tmp_path / "rows", tmp_path / "llama"))
    task = open_task(model, opened(model), rows, "validation")
    short, long = next(task.stream(1, seed=0)), next(task.stream(24, seed=0))
    tensors = read_all(opened(model))
    assert task.logits(tensors, long).shape == (24, task.module.config.vocab_size)
    torch.testing.assert_close(task.logits(tensors, long)[:1], task.logits(tensors, short))


def test_rows_of_other_classes_are_refused(inputs):
    part = opened(inputs["models.0"]).inside(opened(inputs["base"]))
    with pytest.raises(IncompatibleModels, match="tells the classes business, sport, tech apart"):
        open_task(inputs["models.0"], part, inputs["datasets.1"], "validation")


def test_data_for_a_method_without_data_is_refused(inputs, tmp_path):
    with pytest.raises(ConfigError, match="task_arithmetic needs no data. Leave the input 'datasets' out"):
        step.run(MergeConfig(method="task_arithmetic"), inputs, Context(tmp_path / "work"))
