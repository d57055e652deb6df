"""The step merge_adapters: peft's own merges, closed forms in float64, laws, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lfm_tasks.errors import ConfigError, IncompatibleModels, InvalidInput
from lfm_tasks.models.opening import open_model
from lfm_tasks.models.saving import save_adapter
from lfm_tasks.reuse.adapters import merge as step
from lfm_tasks.reuse.adapters.config import MergeAdaptersConfig
from lfm_tasks.reuse.adapters.kernels import LORAHUB
from lfm_tasks.reuse.adapters.lora import open_adapter
from lfm_tasks.reuse.adapters.lorahub import _batches, _Changes, _loss, _model
from lfm_tasks.reuse.group import Group
from lfm_tasks.reuse.methods.config import TaskArithmeticConfig
from lfm_tasks.step import Input
from tests.loras import make_lora
from tests.tuned import LABELS, Context, bert_input, llama_input, write_dataset

WEIGHTS = [0.7, -0.4, 0.5]
PEFT_TIES = {"combine": "count", "density": 0.4}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Input:
    return llama_input(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def equal(base, tmp_path_factory) -> list[Input]:
    """Of one rank and one scaling."""
    root = tmp_path_factory.mktemp("equal")
    return [make_lora(base, root / name, seed=place) for place, name in enumerate(("one", "two", "three"))]


@pytest.fixture(scope="module")
def mixed(base, tmp_path_factory) -> list[Input]:
    """Of other ranks, alphas, scalings; one changes other layers too."""
    root = tmp_path_factory.mktemp("mixed")
    return [
        make_lora(base, root / "small", seed=1, rank=2, alpha=6),
        make_lora(base, root / "stable", seed=2, rank=4, alpha=3, use_rslora=True),
        make_lora(base, root / "wide", seed=3, rank=3, alpha=9, target_modules=["q_proj", "down_proj", "o_proj"]),
    ]


def merged(adapters: list[Input], work, **values) -> Input:
    config = MergeAdaptersConfig(**({"options": {"weights": WEIGHTS[: len(adapters)]}} | values))
    inputs = {f"adapters.{place}": one for place, one in enumerate(adapters)}
    path = step.run(config, inputs, Context(work)).outputs["adapter"].path
    return Input("merged", "adapter", "merged", path, adapters[0].base)


def deltas(adapter: Input) -> dict[str, torch.Tensor]:
    return {name: layer.product().double() for name, layer in open_adapter(adapter).layers.items()}


def close(found, expected, tolerance=2e-6):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name].double(), atol=tolerance, rtol=1e-4)


def by_peft(adapters: list[Input], kind: str, **options) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(adapters[0].base.path), adapters[0].path, adapter_name="a0")
    for place, adapter in enumerate(adapters[1:], start=1):
        model.load_adapter(adapter.path, adapter_name=f"a{place}")
    names = [f"a{place}" for place in range(len(adapters))]
    model.base_model.add_weighted_adapter(names, WEIGHTS[: len(names)], "merged", combination_type=kind, **options)
    layers = {name: module for name, module in model.base_model.model.named_modules() if isinstance(module, LoraLayer)}
    return {name: module.get_delta_weight("merged").detach() for name, module in layers.items()}


CASES = {
    "linear": ("lora_linear", "factors", {}),
    "svd": ("lora_linear", "product", {}),
    "cat": ("lora_cat", "product", {}),
    "ties": ("lora_ties", "factors", PEFT_TIES),
    "ties_svd": ("lora_ties", "product", PEFT_TIES),
    "magnitude_prune": ("lora_magnitude_prune", "factors", {"density": 0.4}),
    "magnitude_prune_svd": ("lora_magnitude_prune", "product", {"density": 0.4}),
    "dare_linear": ("lora_dare_linear", "factors", {"drop_rate": 0.6}),
    "dare_linear_svd": ("lora_dare_linear", "product", {"drop_rate": 0.6}),
    "dare_ties": ("lora_dare_ties", "factors", {"drop_rate": 0.6, "combine": "count", "elect": "votes"}),
    "dare_ties_svd": ("lora_dare_ties", "product", {"drop_rate": 0.6, "combine": "count"}),
}


BOTH = [(kind, ranks) for kind, (_, space, _) in CASES.items() for ranks in ("equal", "mixed") if ranks == "equal" or space == "product"]


@pytest.mark.parametrize(("kind", "ranks"), BOTH)
def test_what_peft_makes_of_the_same_adapters(kind, ranks, request, tmp_path, monkeypatch):
    method, space, options = CASES[kind]
    adapters = request.getfixturevalue(ranks)
    if "dare" in kind:
        monkeypatch.setattr(torch, "bernoulli", our_draws(adapters, space, options["drop_rate"]))
    theirs = {"density": 0.4} if options else {}
    if "elect" in options:
        theirs["majority_sign_method"] = "frequency"
    expected = by_peft(adapters, kind, **theirs)
    rank = 0 if ranks == "equal" else 4  # peft's: the largest of the adapters, for every layer
    result = merged(adapters, tmp_path, method=method, space=space, rank=rank, options={"weights": WEIGHTS} | options)
    close(deltas(result), expected, 1e-5)


def our_draws(adapters, space, drop_rate):
    """In the order in which peft asks for them."""
    opened = [open_adapter(one) for one in adapters]
    names = [name for name, _ in AutoModelForCausalLM.from_pretrained(adapters[0].base.path).named_modules()]
    waiting = []
    for name in names:
        having = [one for one in opened if name in one.layers]
        for part in ("",) if space == "product" else ("/A", "/B"):
            group = Group(name + part, None, (), tuple(one.source.sha256 for one in having), torch.float32)
            waiting += [group.stream(place, "drop") for place in range(len(having))]
    streams = iter(waiting)

    def bernoulli(probability):
        drawn = next(streams).random(probability.numel(), dtype="float32").reshape(probability.shape)
        return torch.from_numpy((drawn < np.float32(1 - drop_rate)).astype("float32"))

    return bernoulli


def test_side_by_side_is_the_exact_sum_and_so_is_a_whole_rank(mixed, tmp_path):
    parts = [deltas(one) for one in mixed]
    names = sorted(set().union(*parts))
    expected = {name: sum(w * part[name] for w, part in zip(WEIGHTS, parts, strict=True) if name in part) for name in names}
    side_by_side = merged(mixed, tmp_path / "cat", method="lora_cat")
    close(deltas(side_by_side), expected)
    ranks = {name: layer.rank for name, layer in open_adapter(side_by_side).layers.items()}
    assert {ranks[name] for name in ranks if "o_proj" in name} == {3} and {ranks[name] for name in ranks if "q_proj" in name} == {9}
    close(deltas(merged(mixed, tmp_path / "svd", rank=9)), expected)


def test_a_smaller_rank_is_the_best_of_that_rank(mixed, tmp_path):
    exact, found = deltas(merged(mixed, tmp_path / "cat", method="lora_cat")), deltas(merged(mixed, tmp_path / "svd", rank=2))
    for name, matrix in exact.items():
        u, s, v = torch.linalg.svd(matrix)
        torch.testing.assert_close(found[name], (u[:, :2] * s[:2]) @ v[:2], atol=2e-6, rtol=1e-4)


def test_knots_is_ties_on_the_shared_directions(mixed, tmp_path):
    """Dense float64: the decomposition of the changes side by side, the trim and vote on V, and the way back."""
    found = deltas(merged(mixed, tmp_path, method="knots", rank=9, options={"density": 0.5}))
    name = next(name for name in found if name.endswith("0.self_attn.q_proj"))
    parts = [deltas(one)[name] for one in mixed]
    u, s, v = torch.linalg.svd(torch.cat(parts, 1), full_matrices=False)
    shared = torch.stack(v[:9].split(parts[0].shape[1], 1))
    least = shared.abs().flatten(1).sort(1, descending=True).values[:, int(0.5 * shared[0].numel()) - 1]
    trimmed = shared * (shared.abs() >= least[:, None, None])
    wins = trimmed.sign() == torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    expected = (u[:, :9] * s[:9]) @ ((trimmed * wins).sum(0) / wins.sum(0).clamp(min=1))
    torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)


def test_without_a_trim_knots_adds_what_agrees(equal, tmp_path):
    """Copies agree everywhere: their mean is each of them."""
    copies = [equal[0], replace(equal[0], sha256="copy")]
    close(deltas(merged(copies, tmp_path, method="knots", options={"density": 1})), deltas(equal[0]))


def test_the_result_is_an_ordinary_peft_adapter_on_the_same_base(mixed, base, tmp_path):
    result = merged(mixed, tmp_path, method="lora_cat")
    entry = json.loads((result.path / "lfm_adapter.json").read_text())
    assert entry["base"] == {"kind": "model", "sha256": base.sha256} and entry["method"] == "lora_cat"
    assert sorted(path.name for path in result.path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "lfm_adapter.json"]
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = AutoModelForCausalLM.from_pretrained(base.path)
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), result.path)(ids).logits
    for name, delta in deltas(result).items():
        plain.get_parameter(f"{name}.weight").data += delta.float()
    torch.testing.assert_close(plain(ids).logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(open_model(result)(ids).logits, expected, atol=1e-5, rtol=1e-4)


def test_heads_are_the_first_ones_or_their_mean(tmp_path):
    base = bert_input(tmp_path / "bert", labels=["a", "b"])
    adapters = [make_lora(base, tmp_path / f"a{seed}", seed=seed, labels=["a", "b"]) for seed in (1, 2)]
    heads = [open_adapter(one).heads["classifier.weight"] for one in adapters]
    first, mean = (merged(adapters, tmp_path / how, heads=how) for how in ("first", "mean"))
    assert torch.equal(open_adapter(first).heads["classifier.weight"], heads[0])
    torch.testing.assert_close(open_adapter(mean).heads["classifier.weight"], (heads[0] + heads[1]) / 2)
    torch.testing.assert_close(open_model(mean).classifier.weight.detach(), (heads[0] + heads[1]) / 2)
    other = make_lora(base, tmp_path / "other", seed=3, labels=["x", "y"])
    with pytest.raises(IncompatibleModels, match=r"heads=mean: other has the classes \['x', 'y'\], a1 \['a', 'b'\]. Set heads=first"):
        merged([adapters[0], other], tmp_path / "refused", heads="mean")


def test_lorahub_finds_weights_better_than_the_obvious_ones(tmp_path):
    """Rows labelled by what the second adapter says: the base, each adapter and their mean are worse than what is found."""
    base = bert_input(tmp_path / "bert", labels=LABELS)
    adapters = [make_lora(base, tmp_path / f"a{seed}", seed=seed, labels=LABELS, alpha=40) for seed in (1, 2)]
    dataset = write_dataset(tmp_path / "rows", base.path, "classification", rows=60)
    _label_by(adapters, dataset)
    config = MergeAdaptersConfig(method="lorahub", options={"examples": 48, "evaluations": 50, "penalty": 0.0}, rank=8)
    inputs = {"adapters.0": adapters[0], "adapters.1": adapters[1], "dataset": dataset}
    outcome = step.run(config, inputs, Context(tmp_path / "work"))
    first, second = outcome.summary["weights"]
    opened = [open_adapter(one) for one in adapters]
    model = _model(opened[0])
    changes, batches = _Changes(model, opened, "product"), _batches(model, opened[0], dataset, config.method_config(), 0)

    def loss(*weights: float) -> float:
        changes.apply(weights)
        return _loss(model, batches)

    assert outcome.metrics["loss_first"] == pytest.approx(loss(0, 0), rel=1e-5)
    assert outcome.metrics["loss_best"] == pytest.approx(loss(first, second), rel=1e-5)
    assert loss(first, second) < min(loss(0, 0), loss(1, 0), loss(0, 1), loss(0.5, 0.5))
    again = step.run(config, inputs, Context(tmp_path / "again"))
    assert again.summary == outcome.summary
    parts = [deltas(one) for one in adapters]
    result = Input("merged", "adapter", "merged", outcome.outputs["adapter"].path, base)
    close(deltas(result), {name: first * parts[0][name] + second * parts[1][name] for name in parts[0]}, 1e-5)


def _label_by(adapters: list[Input], dataset: Input) -> None:
    """By the second adapter under the first one's head, whose logits are made large enough to tell classes apart."""
    path = adapters[0].path / "adapter_model.safetensors"
    tensors = load_file(path)
    head = tensors["base_model.model.classifier.weight"] * 100
    save_file(tensors | {"base_model.model.classifier.weight": head}, path, {"format": "pt"})
    model = open_model(adapters[1])
    model.classifier.weight.data = head
    path = dataset.path / "train.parquet"
    table = pq.read_table(path)
    said = [int(model(input_ids=torch.tensor([ids])).logits.argmax()) for ids in table["input_ids"].to_pylist()]
    assert len(set(said)) > 1
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array(said, pa.int32())), path)


@pytest.mark.parametrize("space", ["product", "factors"])
def test_lorahub_measures_what_it_writes(equal, space, tmp_path):
    opened = [open_adapter(one) for one in equal]
    changes = _Changes(AutoModelForCausalLM.from_pretrained(equal[0].base.path), opened, space)
    expected = {name: changes._change(name, WEIGHTS) for name in changes.weights}
    config = MergeAdaptersConfig(method="lorahub", space=space, rank=12)
    layers = step.merge_layers(opened, LORAHUB, TaskArithmeticConfig(weights=WEIGHTS), config)
    close({name: layer.product() for name, layer in layers.items()}, expected)


def test_what_is_refused(equal, mixed, base, tmp_path):
    dora = make_lora(base, tmp_path / "dora", seed=1, use_dora=True)
    with pytest.raises(IncompatibleModels, match="dora holds .*lora_magnitude_vector.*Give it to the step 'merge'"):
        merged([equal[0], dora], tmp_path / "work")
    elsewhere = llama_input(tmp_path / "elsewhere", seed=9)
    with pytest.raises(IncompatibleModels, match=r"stranger is on the base sha256:\w+, one on sha256:\w+.*tuned on one base"):
        merged([equal[0], make_lora(elsewhere, tmp_path / "stranger", seed=1)], tmp_path / "work")
    with pytest.raises(IncompatibleModels, match=r"ranks \[2, 3, 4\]: their factors have no sum. Set space=product"):
        merged(mixed, tmp_path / "work", space="factors")
    with pytest.raises(ConfigError, match="space=factors: lora_magmax has no weights"):
        merged(equal, tmp_path / "work", method="lora_magmax", space="factors", options={})
    with pytest.raises(ConfigError, match="space=factors: knots works on the product"):
        merged(equal, tmp_path / "work", method="knots", space="factors")
    with pytest.raises(ConfigError, match="lorahub chooses its weights on labelled rows.*Give the input 'dataset'"):
        merged(equal, tmp_path / "work", method="lorahub", options={})
    with pytest.raises(ConfigError, match="2 were given for 3 models"):
        merged(equal, tmp_path / "work", options={"weights": [1.0, 2.0]})
    rows = write_dataset(tmp_path / "text", base.path, "text")
    config = MergeAdaptersConfig(method="lorahub")
    inputs = {f"adapters.{place}": one for place, one in enumerate(equal)} | {"dataset": rows}
    with pytest.raises(ConfigError, match="text is a data set of the task text .* Give labelled rows of their task"):
        step.run(config, inputs, Context(tmp_path / "work"))
    with pytest.raises(ConfigError, match="evaluations=5: the search over 3 weights needs 8 or more"):
        step.run(MergeAdaptersConfig(method="lorahub", options={"evaluations": 5}), inputs, Context(tmp_path / "work"))


def test_an_adapter_of_another_kind_or_with_infinity_is_refused(equal, base, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), IA3Config(task_type="CAUSAL_LM"))
    save_adapter(model, tmp_path / "ia3", method="ia3", base_sha256=base.sha256, task="causal_lm")
    with pytest.raises(IncompatibleModels, match="ia3 is of the type .*IA3. Merge adapters that were made by LoRA"):
        merged([equal[0], Input("ia3", "adapter", "ia3", tmp_path / "ia3", base)], tmp_path / "work")
    broken = make_lora(base, tmp_path / "broken", seed=1, alpha=int(1e30), rank=1)
    tensors = load_file(broken.path / "adapter_model.safetensors")
    tensors[min(tensors)][0, 0] = float("nan")
    save_file(tensors, broken.path / "adapter_model.safetensors")
    with pytest.raises(InvalidInput, match="of broken holds NaN or infinity"):
        merged([broken], tmp_path / "work", options={})
