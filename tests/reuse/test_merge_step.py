"""The step merge on toy models in files: what comes out, what is refused, what a stop costs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels, InvalidInput, UnsafeModel
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.checkpoint import depths
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.step import Input
from tests.toys import make_bert, make_llama
from tests.tuned import Context


@pytest.fixture(scope="module")
def llamas(tmp_path_factory) -> list[Path]:
    """A base and three fine-tunings of it."""
    root = tmp_path_factory.mktemp("llamas")
    directories = [root / name for name in ("base", "one", "two", "three")]
    make_llama(directories[0])
    for number, directory in enumerate(directories[1:], start=1):
        shutil.copytree(directories[0], directory)
        change(directory, lambda tensors, number=number: noisy(tensors, number))
    return directories


def noisy(tensors, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}


def change(directory: Path, edit) -> None:
    save_file(edit(load_file(directory / "model.safetensors")), directory / "model.safetensors", {"format": "pt"})


def copied(directories: list[Path], place: Path) -> list[Path]:
    return [Path(shutil.copytree(directory, place / directory.name)) for directory in directories]


def inputs_of(directories: list[Path], base: bool = True) -> dict[str, Input]:
    named = {"base": directories[0]} if base else {}
    named |= {f"models.{place}": directory for place, directory in enumerate(directories[1:] if base else directories)}
    return {name: Input(directory.name, "model", content(directory), directory) for name, directory in named.items()}


def content(directory: Path) -> str:
    return hashlib.sha256(repr({n: t.float().sum().item() for n, t in sorted(tensors_of(directory).items())}).encode()).hexdigest()


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def merged(directories: list[Path], work: Path, base: bool = True, context: Context | None = None, **values) -> Path:
    config = MergeConfig(**({"method": "task_arithmetic"} | values))
    return step.run(config, inputs_of(directories, base), context or Context(work)).outputs["model"].path


def test_the_result_is_the_formula_and_a_model_that_stock_tools_open(llamas, tmp_path):
    result = merged(llamas, tmp_path / "work", options={"weights": [1.0, 0.5, -0.25], "scale": 0.5})
    base, *tuned = (tensors_of(directory) for directory in llamas)
    for name, tensor in tensors_of(result).items():
        weighted = sum(weight * (one[name].double() - base[name].double()) for one, weight in zip(tuned, (1.0, 0.5, -0.25), strict=True))
        torch.testing.assert_close(tensor, (base[name].double() + 0.5 * weighted).float(), atol=1e-6, rtol=1e-6)
    model = AutoModelForCausalLM.from_pretrained(result)
    assert model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()
    assert AutoTokenizer.from_pretrained(result).get_vocab() == AutoTokenizer.from_pretrained(llamas[0]).get_vocab()
    assert (result / "tokenizer.json").read_bytes() == (llamas[0] / "tokenizer.json").read_bytes()
    assert "model_binary" in (result / "MLmodel").read_text()


def test_shards_of_the_inputs_change_no_bit_and_the_base_gives_the_layout(llamas, tmp_path):
    options = {"method": "ties", "options": {"trim": "global"}}
    single = merged(llamas, tmp_path / "single", **options)
    parts = copied(llamas, tmp_path / "parts")
    for directory, size in zip(parts, ("40KB", "20KB", "1GB", "30KB"), strict=True):
        model = AutoModelForCausalLM.from_pretrained(directory)
        (directory / "model.safetensors").unlink()
        model.save_pretrained(directory, max_shard_size=size)
    assert len(list(parts[0].glob("*.safetensors"))) > 1
    result = step.run(MergeConfig(**options), _same_keys(llamas, parts), Context(tmp_path / "work")).outputs["model"].path
    layout = json.loads((parts[0] / "model.safetensors.index.json").read_text())["weight_map"]
    assert json.loads((result / "model.safetensors.index.json").read_text())["weight_map"] == layout
    expected, found = tensors_of(single), tensors_of(result)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    AutoModelForCausalLM.from_pretrained(result)


def _same_keys(originals: list[Path], copies: list[Path]) -> dict[str, Input]:
    whole = inputs_of(originals)
    return {name: Input(one.reference, "model", one.sha256, path) for (name, one), path in zip(whole.items(), copies, strict=True)}


def test_random_drops_depend_on_seed_and_model_not_on_order(llamas, tmp_path):
    def drop(directories, seed, work):
        return tensors_of(merged(directories, tmp_path / work, method="dare_linear", seed=seed))

    first = drop(llamas, 1, "a")
    again = drop([llamas[0], llamas[2], llamas[1], llamas[3]], 1, "b")
    other = drop(llamas, 2, "c")
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, again[name], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(tensor, other[name], atol=1e-3)


def test_stopped_and_resumed_is_never_stopped_bit_for_bit(llamas, tmp_path):
    class Stopping(Context):
        def report(self, done, total, metrics=None):
            super().report(done, total, metrics)
            if done == 5:
                raise AttemptKilled("Stopped on request at 5.")

    options = {"method": "dare_ties", "options": {"rescale": "l1"}}
    whole = merged(llamas, tmp_path / "whole", **options)
    with pytest.raises(AttemptKilled, match="5 of 20 tensors are kept; the same job goes on from there"):
        merged(llamas, tmp_path / "again", context=Stopping(tmp_path / "again"), **options)
    shutil.rmtree(tmp_path / "again")
    context = Context(tmp_path / "again")
    resumed = merged(llamas, tmp_path / "again", context=context, **options)
    assert any("Resumed: 5 of 20 tensors" in line for line in context.lines)
    assert context.reports[0][0] == 6
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_checkpoint_every_so_many_tensors(llamas, tmp_path):
    context = Context(tmp_path / "work")
    merged(llamas, tmp_path / "work", context=context, checkpoint_every=8)
    assert {path.name for path in context.checkpoints.path.glob("*")} == {"8", "16"}


def test_the_result_may_have_another_precision(llamas, tmp_path):
    result = merged(llamas, tmp_path / "work", dtype="bfloat16")
    exact = tensors_of(merged(llamas, tmp_path / "exact"))
    for name, tensor in tensors_of(result).items():
        assert torch.equal(tensor, exact[name].bfloat16())
    assert json.loads((result / "config.json").read_text())["dtype"] == "bfloat16"


def test_classifiers_with_heads_of_their_own_merge_their_bodies(tmp_path):
    directories = [tmp_path / name for name in ("base", "one", "two")]
    make_bert(directories[0], labels=["a", "b"])
    for number, directory in enumerate(directories[1:], start=1):
        make_bert(directory, labels=["a", "b", "c"][: 1 + number], seed=number)
    with pytest.raises(IncompatibleModels, match=r"classifier.weight is \[2, 32\] in base and \[3, 32\] in two.*Give keep the names"):
        merged(directories, tmp_path / "work")
    result = tensors_of(merged(directories, tmp_path / "work", keep=["classifier.*"]))
    base = tensors_of(directories[0])
    assert torch.equal(result["classifier.weight"], base["classifier.weight"])
    assert not torch.equal(result["bert.pooler.dense.weight"], base["bert.pooler.dense.weight"])


def test_every_problem_is_in_one_message(llamas, tmp_path):
    broken = copied(llamas, tmp_path / "broken")
    change(broken[1], lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"})
    change(broken[2], lambda tensors: tensors | {"model.embed_tokens.weight": tensors["model.embed_tokens.weight"][:-1].clone()})
    content = json.loads((broken[3] / "tokenizer.json").read_text())
    content["model"]["vocab"] = {token + "x" if place == 300 else token: place for token, place in content["model"]["vocab"].items()}
    (broken[3] / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(IncompatibleModels) as caught:
        merged(broken[1:], tmp_path / "work", base=False, keep=["nothing.*"])
    message = str(caught.value)
    assert "none was given. Give the input 'base'" in message
    assert "keep: no tensor of one is named 'nothing.*'" in message
    assert "two has model.norm.weight, which one lacks" in message
    assert "model.embed_tokens.weight is" in message
    assert "The vocabularies of one and three differ in 2 tokens. Set vocabulary to base or union" in message


@pytest.mark.parametrize(
    ("method", "count", "says"),
    [("slerp", 3, "takes 2 of the input"), ("expo", 2, "takes 1 of the input"), ("model_stock", 1, "takes 2 or more of the input")],
)
def test_the_number_of_models_is_checked_first(llamas, tmp_path, method, count, says):
    with pytest.raises(IncompatibleModels, match=says):
        merged(llamas[: count + 1], tmp_path / "work", method=method)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_by_name(llamas, tmp_path, value):
    broken = copied(llamas, tmp_path / "broken")

    def spoil(tensors):
        tensors["model.norm.weight"][3] = value
        return tensors

    change(broken[2], spoil)
    with pytest.raises(InvalidInput, match="model.norm.weight of two holds NaN or infinity"):
        merged(broken, tmp_path / "work", method="ties")


def test_what_does_not_fit_the_precision_is_refused(llamas, tmp_path):
    with pytest.raises(InvalidInput, match=r"overflows torch.float16 when merged. Choose smaller weights, or dtype=float32"):
        merged(llamas, tmp_path / "work", dtype="float16", options={"weights": [1e7, 1e7, 1e7]})


def test_weights_that_sum_to_zero_have_no_average(llamas, tmp_path):
    with pytest.raises(ConfigError, match=r"\[1.0, -1.0, 0.0\] sum to zero, so they have no average"):
        merged(llamas, tmp_path / "work", method="linear", options={"weights": [1.0, -1.0, 0.0]})
    with pytest.raises(ConfigError, match="2 were given for 3 models"):
        merged(llamas, tmp_path / "work", options={"weights": [1.0, -1.0]})


def test_integers_are_copied_where_they_agree_and_refused_where_not(tmp_path, llamas):
    counted = copied(llamas, tmp_path / "counted")
    for directory in counted:
        change(directory, lambda tensors: tensors | {"steps": torch.tensor([7])})
    assert tensors_of(merged(counted, tmp_path / "work"))["steps"].tolist() == [7]
    change(counted[2], lambda tensors: tensors | {"steps": torch.tensor([8])})
    with pytest.raises(IncompatibleModels, match="steps holds integers that differ between base and two"):
        merged(counted, tmp_path / "work")


def test_pickles_and_a_full_disk_are_refused_before_anything_is_read(llamas, tmp_path, monkeypatch):
    monkeypatch.setattr("lfm_tasks.reuse.plan.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(IncompatibleModels, match=r"The result has [\d,]+ bytes; the disk of .* has 5 left"):
        merged(llamas, tmp_path / "work")
    pickled = copied(llamas, tmp_path / "pickled")
    (pickled[1] / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeModel, match="can carry code"):
        merged(pickled, tmp_path / "work")


def test_the_models_without_a_base_name_the_config(llamas, tmp_path):
    """No base: the first model gives config, tokenizer and layout, whatever the others are called."""
    first = copied(llamas[1:], tmp_path / "first")
    config = json.loads((first[0] / "config.json").read_text())
    (first[0] / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 500}))
    result = merged(first, tmp_path / "work", base=False, method="uniform_soup")
    assert json.loads((result / "config.json").read_text())["max_position_embeddings"] == 500


def test_layers_are_the_numbers_at_one_place_of_the_names():
    names = ["embed.weight", "h.0.a", "h.0.b.1.c", "h.1.a", "h.2.a", "norm.weight"]
    assert depths(names) == {"embed.weight": 0, "h.0.a": 0, "h.0.b.1.c": 0, "h.1.a": 0.5, "h.2.a": 1, "norm.weight": 0}
    assert depths(["a", "b"]) == {"a": 0, "b": 0}


def test_classifiers_with_other_heads_are_merged_below_them_where_the_base_is_bare(tmp_path):
    """BertForSequenceClassification holds the BertModel as ``bert.…``; heads of two and three classes cannot be merged."""
    directories = [tmp_path / name for name in ("base", "two", "three")]
    make_bert(directories[0])
    for seed, labels in ((1, ["no", "yes"]), (2, ["a", "b", "c"])):
        make_bert(directories[seed], labels=labels, seed=seed)
    result = tensors_of(merged(directories, tmp_path / "work", options={"weights": [1.0, 0.0]}))
    own = tensors_of(directories[1])
    assert result.keys() == tensors_of(directories[0]).keys() == {n.removeprefix("bert.") for n in own if n.startswith("bert.")}
    for name, tensor in result.items():
        torch.testing.assert_close(tensor, own[f"bert.{name}"], atol=1e-7, rtol=1e-6)
    soup = tensors_of(merged(directories, tmp_path / "soup", method="linear"))
    torch.testing.assert_close(soup["pooler.dense.weight"], sum(tensors_of(one)["bert.pooler.dense.weight"] for one in directories[1:]) / 2)
    with pytest.raises(IncompatibleModels, match=r"classifier.weight is \[2, 32\] in two and \[3, 32\] in three"):
        merged(directories[1:], tmp_path / "heads", base=False, method="linear")
