"""WEMoE and E-WEMoE: against task arithmetic, against one sample at a time, and through files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call
from transformers import AutoModel

from lfm_tasks.errors import ConfigError, InvalidInput
from lfm_tasks.models.mixtures import wemoe
from lfm_tasks.models.mixtures.task_vectors import Router, combined, dense, sparse
from lfm_tasks.models.mixtures.wemoe import Gate, Padding, WeightEnsembling
from lfm_tasks.models.opening import open_with_head
from lfm_tasks.reuse import merge
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.entropy import entropy
from lfm_tasks.reuse.mixtures.config import UnloadConfig
from lfm_tasks.reuse.mixtures.modules import feed_forwards
from lfm_tasks.reuse.mixtures.unload import run as unload
from tests.mixed import CLASSES, IDS, decoders, encoders, files, given, mixed, result
from tests.prepared import write_instructions, write_labelled
from tests.tuned import Context


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def data(models, tmp_path_factory):
    """Rows of each expert's task; there is no test split to read."""
    root = tmp_path_factory.mktemp("rows")
    made = [write_labelled(root / str(len(labels)), models[0], labels=labels) for labels in CLASSES]
    for directory in made:
        (directory / "test.parquet").unlink()
    return made


def mixture(models, data, work, method="wemoe", **options):
    return mixed(models, work, data, method=method, split="validation", options={"steps": 0, "batch_size": 4} | options)


def change(directory, edit) -> None:
    tensors = load_file(directory / "experts.safetensors")
    save_file({name: edit(name, tensor) for name, tensor in tensors.items()}, directory / "experts.safetensors", {"format": "pt"})


def arithmetic(models, work, scale):
    inputs = {"base": given(models[0])} | {f"models.{place}": given(one) for place, one in enumerate(models[1:])}
    return given(merge.run(MergeConfig(method="task_arithmetic", options={"scale": scale}), inputs, Context(work)).outputs["model"].path)


def unloaded(source, work, **config):
    return given(unload(UnloadConfig(**config), {"model": source}, Context(work)).outputs["model"].path)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_router_that_ignores_its_input_is_task_arithmetic(models, data, tmp_path, depth):
    made = result(mixture(models, data, tmp_path / "work", router_depth=depth, initial=0.4))
    change(made.path, lambda name, tensor: torch.zeros_like(tensor) if name.startswith("router") and name.endswith("weight") else tensor)
    for place, labels in enumerate(CLASSES, start=1):
        head = given(models[place])
        expected = open_with_head(arithmetic(models, tmp_path / f"ta{place}", 0.4), head, labels)(IDS).logits
        torch.testing.assert_close(open_with_head(made, head, labels)(IDS).logits, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("at_once", [1, 1 << 25])
def test_the_output_is_that_of_each_sample_s_own_weights(depth, at_once, monkeypatch):
    monkeypatch.setattr(wemoe, "ELEMENTS_AT_ONCE", at_once)
    torch.manual_seed(0)
    module = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6)).double()
    vectors = {name: torch.randn(3, *one.shape).double() for name, one in module.named_parameters()}
    router, padding = Router(6, 3, depth, 6).double(), Padding(torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]))
    x = torch.randn(3, 4, 6).double()
    found = WeightEnsembling(module, vectors, Gate(padding), router)(x)
    for sample, length in enumerate((3, 4, 1)):
        weights = router(x[sample, :length]).mean(0)
        own = {name: one + sum(w * v for w, v in zip(weights, vectors[name], strict=True)) for name, one in module.named_parameters()}
        torch.testing.assert_close(found[sample], functional_call(module, own, (x[sample],)))


def test_padding_and_the_other_samples_change_nothing(models, data, tmp_path):
    made = result(mixture(models, data, tmp_path / "work"))
    change(made.path, lambda name, tensor: 30 * tensor if name.startswith("router") and name.endswith("weight") else tensor)
    model = open_with_head(made, given(models[1]))
    alone = torch.cat([model(input_ids=one[None], attention_mask=torch.ones(1, 5)).logits for one in IDS])
    padded, mask = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], 1), (torch.arange(8) < 5).long().expand(2, 8)
    torch.testing.assert_close(model(input_ids=padded, attention_mask=mask).logits, alone, atol=2e-6, rtol=1e-5)
    gates = {id(module.gate): module.gate.weights for module in model.modules() if isinstance(module, WeightEnsembling)}
    assert len(gates) == 2 and all(not torch.allclose(weights[0], weights[1], atol=1e-3) for weights in gates.values())


@pytest.mark.parametrize("method", ["wemoe", "e_wemoe"])
def test_without_a_look_at_its_input_it_is_a_plain_model_bit_for_bit(models, data, tmp_path, method):
    made = result(mixture(models, data, tmp_path / "work", method, router_depth=0, steps=2, learning_rate=0.1))
    plain = unloaded(made, tmp_path / "plain")
    for head, labels in zip(models[1:], CLASSES, strict=True):
        expected = open_with_head(made, given(head), labels)(IDS).logits
        assert torch.equal(open_with_head(plain, given(head), labels)(IDS).logits, expected)
    assert (plain.path / "MLmodel").is_file() and AutoModel.from_pretrained(plain.path)(IDS).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("method", ["wemoe", "e_wemoe"])
def test_training_lowers_the_entropy_and_changes_the_routers_alone(models, data, tmp_path, method):
    trained = mixture(models, data, tmp_path / "a", method, steps=12, learning_rate=0.02)
    again = mixture(models, data, tmp_path / "b", method, steps=12, learning_rate=0.02)
    before = load_file(result(mixture(models, data, tmp_path / "c", method)).path / "experts.safetensors")
    assert trained.metrics["entropy_last"] < trained.metrics["entropy_first"]
    assert files(result(trained).path) == files(result(again).path)
    after = load_file(result(trained).path / "experts.safetensors")
    assert {name for name in after if not torch.equal(after[name], before[name])} == {name for name in after if name.startswith("router")}
    uniform = torch.zeros(2, 5)
    torch.testing.assert_close(entropy(uniform), torch.full((2,), 5.0).log())


def test_sparse_task_vectors_are_the_largest_elements_and_one_router_serves_all(models, data, tmp_path):
    vectors = torch.randn(3, 4, 5)
    values, places = sparse(vectors, 0.25)
    back = dense(values, places, (4, 5))
    assert values.shape == places.shape == (3, 5) and (back != 0).sum() == 15
    assert (back[back != 0].abs().min(), torch.equal(back, torch.where(back != 0, vectors, 0))) == (values.abs().min(), True)
    assert torch.equal(dense(*sparse(vectors, 1.0), (4, 5)), vectors)
    outcome = mixture(models, data, tmp_path / "work", "e_wemoe", density=0.1)
    body = load_file(models[0] / "model.safetensors")
    inner = [t.numel() for name, t in body.items() if ".intermediate." in name or (".output." in name and ".attention." not in name)]
    assert outcome.metrics["router_parameters"] == 32 * 2 + 2
    assert outcome.metrics["extra_parameters"] == 2 * sum(round(0.1 * count) for count in inner) + 66
    assert mixture(models, data, tmp_path / "full").metrics["extra_parameters"] == 2 * sum(inner) + 2 * 66


def test_weights_are_a_sum_over_task_vectors_for_one_sample_and_for_many():
    base, vectors, weights = torch.randn(4, 5).double(), torch.randn(3, 4, 5).double(), torch.randn(2, 3).double()
    expected = torch.stack([base + sum(w * v for w, v in zip(row, vectors, strict=True)) for row in weights])
    torch.testing.assert_close(combined(base, vectors, weights), expected)
    torch.testing.assert_close(combined(base, vectors, weights[1]), expected[1])


def test_feed_forwards_are_found_whatever_they_are_called():
    """The key layer of the attention is narrower than its input, the whole attention wider: neither is a feed-forward."""

    def block():
        attention = nn.ModuleDict({"q": nn.Linear(8, 16), "k": nn.Linear(8, 4), "o": nn.Linear(16, 8)})
        inner = nn.ModuleDict({"wide": nn.Linear(8, 24), "gated": nn.Linear(8, 24), "back": nn.Linear(24, 8), "norm": nn.LayerNorm(8)})
        return nn.ModuleDict({"attention": attention, "any_name": inner})

    model = nn.ModuleDict({"stack": nn.ModuleList([block(), block()]), "head": nn.Linear(8, 30)})
    assert feed_forwards(model) == {"stack.0": ["stack.0.any_name"], "stack.1": ["stack.1.any_name"]}
    assert feed_forwards(nn.ModuleList([nn.Linear(8, 24)])) == {}


def test_what_cannot_be_is_said(models, data, tmp_path):
    with pytest.raises(ConfigError, match="learns from the data of each model; 1 of the input 'datasets' were given for 2 models"):
        mixture(models, data[:1], tmp_path / "a")
    made = result(mixture(models, data, tmp_path / "b"))
    assert json.loads((made.path / "lfm_mixture.json").read_text())["modules"]["encoder.layer.0.output"] == {
        "feed_forward": "encoder.layer.0",
        "first": False,
    }
    with pytest.raises(ConfigError, match="routes every sample by its hidden states, so no single set of weights answers as it does"):
        unloaded(made, tmp_path / "c")
    with pytest.raises(InvalidInput, match="base is a plain model already"):
        unloaded(given(models[0]), tmp_path / "d")
    with pytest.raises(ConfigError, match="A mixture of smile decides for every token"):
        unloaded(result(mixed(models, tmp_path / "e")), tmp_path / "f")
    llamas = decoders(tmp_path / "llamas")
    prompts = [write_instructions(tmp_path / "prompts", llamas[0])] * 2
    with pytest.raises(ConfigError, match="would show a decoder the tokens that it is to predict. Mix classifiers, set router_depth=0"):
        mixture(llamas, prompts, tmp_path / "g")
    static = result(mixture(llamas, prompts, tmp_path / "h", router_depth=0))
    with pytest.raises(ConfigError, match="preference .*: a mixture of wemoe has none"):
        unloaded(static, tmp_path / "i", preference=[0.5, 0.5])
    shutil.rmtree(tmp_path / "llamas")
