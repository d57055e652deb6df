"""The step align on model directories: what comes out, what is measured, what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from lfm_tasks.config import parse_config
from lfm_tasks.errors import AttemptKilled, ConfigError, DataError, IncompatibleModels, InvalidInput
from lfm_tasks.reuse import merge
from lfm_tasks.reuse.alignment import align as step
from lfm_tasks.reuse.alignment.config import AlignConfig
from lfm_tasks.reuse.config import MergeConfig
from tests.mixed import files
from tests.networks import network, permute, shuffled, specified, state
from tests.toys import make_bert, make_llama
from tests.tuned import LABELS, Context, StoppingAt, model_input, write_dataset


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    """A decoder, and its copy with units in other places, in two files and half precision."""
    root = tmp_path_factory.mktemp("llamas")
    model = make_llama(root / "one", hidden=16).to(torch.bfloat16)
    model.save_pretrained(root / "one")
    model.set_attn_implementation("eager")
    found = specified(model.float(), {"input_ids": torch.randint(100, (2, 5))})
    make_llama(root / "other", hidden=16)
    (root / "other" / "model.safetensors").unlink()
    model.to(torch.bfloat16).load_state_dict(permute(found, state(model), shuffled(found)))
    model.save_pretrained(root / "other", max_shard_size="10KB")
    return root


def inputs_of(reference, model, dataset=None):
    first = {"reference": model_input(reference), "model": step_input(model)}
    return first | ({"dataset": dataset} if dataset else {})


def step_input(directory):
    return (
        model_input(directory) if (directory / "model.safetensors").is_file() else step.Input(directory.name, "model", "b" * 64, directory)
    )


def tensors_of(directory):
    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def test_a_permuted_copy_comes_back_in_its_files_and_merges_with_the_original(llamas, tmp_path):
    outcome = step.run(AlignConfig(), inputs_of(llamas / "one", llamas / "other"), Context(tmp_path / "work"))
    result = outcome.outputs["model"].path
    original, found = tensors_of(llamas / "one"), tensors_of(result)
    assert {name for name in original if not torch.equal(original[name], found[name])} == set()
    index = "model.safetensors.index.json"
    assert json.loads((result / index).read_text())["weight_map"] == json.loads((llamas / "other" / index).read_text())["weight_map"]
    assert outcome.metrics["l2_after"] == 0 < outcome.metrics["l2_before"]
    assert outcome.metrics["cosine_before"] < outcome.metrics["cosine_after"] == pytest.approx(1)
    assert outcome.metrics["output_difference"] < 1e-4 and outcome.metrics["groups"] == 9
    assert outcome.summary["tensors_not_aligned"] == [] and outcome.summary["operations_not_followed"] == []
    merging = {"models.0": model_input(llamas / "one"), "models.1": step_input(result)}
    merged = merge.run(MergeConfig(), merging, Context(tmp_path / "merge")).outputs["model"].path
    ids = {"input_ids": torch.arange(5, 14)[None]}
    logits = [AutoModelForCausalLM.from_pretrained(path)(**ids).logits for path in (llamas / "one", merged)]
    torch.testing.assert_close(logits[0], logits[1])


DATA_METHODS = {"activation_matching": {}, "transport": {"ground": "activations"}, "zipit": {}}


@pytest.mark.parametrize(
    ("method", "stopped"),
    [
        *(("weight_matching", stopped) for stopped in ("first decision", "later decision")),
        *((method, stopped) for method in DATA_METHODS for stopped in (4, 12, "first decision", "later decision")),
    ],
)
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(method, stopped, tmp_path):
    for seed in (1, 2):
        make_bert(tmp_path / str(seed), labels=LABELS, seed=seed, hidden=16)
    data = write_dataset(tmp_path / "data", tmp_path / "1", "classification")
    given = inputs_of(tmp_path / "1", tmp_path / "2", None if method == "weight_matching" else data)
    config = AlignConfig(method=method, options=DATA_METHODS.get(method, {}), batch_size=4)
    whole = step.run(config, given, Context(tmp_path / "whole"))
    decides = isinstance(stopped, str)
    at = 1 if stopped == "first decision" else 2
    stopping = Context(tmp_path / "again", stop_at=at) if decides else StoppingAt(tmp_path / "again", stopped)
    with pytest.raises(AttemptKilled, match="are kept; the same job goes on from there"):
        step.run(config, given, stopping)
    shutil.rmtree(tmp_path / "again")
    context = Context(tmp_path / "again")
    resumed = step.run(config, given, context)
    seen = (0 if method == "weight_matching" else 12) if decides else stopped
    assert f"Resumed: {seen} rows were seen and {at if decides else 0} decisions made before." in context.lines
    assert all(done > seen for done, _, _ in context.reports)
    assert files(whole.outputs["model"].path) == files(resumed.outputs["model"].path)
    same = whole.metrics.keys() - {"peak_memory_bytes"}
    assert {name: whole.metrics[name] for name in same} == {name: resumed.metrics[name] for name in same}


@pytest.mark.parametrize("method", ["activation_matching", "transport", "zipit"])
def test_methods_that_look_at_data_bring_two_classifiers_together(method, tmp_path):
    for seed in (1, 2):
        make_bert(tmp_path / str(seed), labels=LABELS, seed=seed, hidden=16, layers=1)
    data = write_dataset(tmp_path / "data", tmp_path / "1", "classification")
    options = {"ground": "activations", "regularization": 0.01} if method == "transport" else {}
    config = AlignConfig(method=method, options=options, split="validation")
    outcome = step.run(config, inputs_of(tmp_path / "1", tmp_path / "2", data), Context(tmp_path / "work"))
    assert outcome.metrics["l2_after"] < outcome.metrics["l2_before"]
    if method == "activation_matching":
        assert outcome.metrics["correlation_after"] > outcome.metrics["correlation_before"] + 0.1
        assert outcome.metrics["output_difference"] < 1e-4


def test_only_train_and_validation_are_read(tmp_path):
    make_bert(tmp_path / "1", labels=LABELS, hidden=16, layers=1)
    data = write_dataset(tmp_path / "data", tmp_path / "1", "classification")
    (data.path / "test.parquet").unlink()
    (data.path / "train.parquet").unlink()
    same = inputs_of(tmp_path / "1", tmp_path / "1", data)
    step.run(AlignConfig(method="activation_matching", split="validation"), same, Context(tmp_path / "work"))
    with pytest.raises(DataError, match="no rows in its split 'train'"):
        step.run(AlignConfig(method="activation_matching"), same, Context(tmp_path / "again"))
    with pytest.raises(ConfigError, match="split: Input should be 'train' or 'validation'"):
        parse_config(AlignConfig, {"split": "test"})


def test_a_vision_model_is_aligned_by_its_weights_and_not_on_text(tmp_path):
    for seed in (1, 2):
        network("resnet", seed=seed)[0].save_pretrained(tmp_path / str(seed))
    outcome = step.run(AlignConfig(), inputs_of(tmp_path / "1", tmp_path / "2"), Context(tmp_path / "work"))
    assert outcome.metrics["cosine_after"] > outcome.metrics["cosine_before"]
    AutoModelForImageClassification.from_pretrained(outcome.outputs["model"].path)
    make_bert(tmp_path / "text", labels=LABELS)
    data = write_dataset(tmp_path / "data", tmp_path / "text", "classification")
    with pytest.raises(IncompatibleModels, match="takes pixel_values, the rows of a data set are text. Use weight_matching."):
        step.run(AlignConfig(method="zipit"), inputs_of(tmp_path / "1", tmp_path / "2", data), Context(tmp_path / "again"))


def test_what_cannot_be_aligned_is_refused_with_the_reason(llamas, tmp_path):
    def run(reference, model, **values):
        step.run(AlignConfig(**values), inputs_of(reference, model), Context(tmp_path / "work"))

    with pytest.raises(ConfigError, match="zipit compares activations on data, and no data set was given. Give the input 'dataset'"):
        run(llamas / "one", llamas / "one", method="zipit")
    make_llama(tmp_path / "wide", hidden=32)
    with pytest.raises(
        IncompatibleModels, match=r"'lm_head.weight' is|'model.embed_tokens.weight' is \[\d+, 16\] in one and \[\d+, 32\] in wide"
    ):
        run(llamas / "one", tmp_path / "wide")
    extra = load_file(tmp_path / "wide" / "model.safetensors") | {"critic.weight": torch.ones(2)}
    save_file(extra, tmp_path / "wide" / "model.safetensors", {"format": "pt"})
    with pytest.raises(IncompatibleModels, match="wide stores 'critic.weight', which LlamaForCausalLM does not have"):
        run(tmp_path / "wide", tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config | {"architectures": ["Nothing"]}))
    with pytest.raises(IncompatibleModels, match="wide names the architecture 'Nothing' in its config, which is no model of transformers"):
        run(tmp_path / "wide", tmp_path / "wide")


def test_a_result_that_computes_something_else_is_no_result():
    with pytest.raises(InvalidInput, match="gives other outputs than before .they differ by 2.0e-01 .* Name tensors in fixed"):
        step.check_function(step.METHODS["weight_matching"].function, 0.2)
    step.check_function(step.METHODS["zipit"].function, 0.2)
