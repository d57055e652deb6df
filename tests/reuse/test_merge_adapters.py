"""The step merge_adapters: peft's own merges, closed forms in float64, laws, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
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
from lfm_tasks.reuse.adapters.lora import open_adapter
from lfm_tasks.reuse.group import Group
from lfm_tasks.step import Input
from tests.loras import make_lora
from tests.tuned import Context, bert_input, llama_input, write_dataset

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


def merged(adapters: list[Input], work, method: str = "lora_linear", heads: str = "first", **options) -> Input:
    config = MergeAdaptersConfig(method=method, heads=heads, options={"weights": WEIGHTS[: len(adapters)]} | options)
    path = step.run(config, numbered(adapters), Context(work)).outputs["adapter"].path
    return Input("merged", "adapter", "merged", path, adapters[0].base)


def numbered(adapters: list[Input]) -> dict[str, Input]:
    return {f"adapters.{place}": one for place, one in enumerate(adapters)}


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


FACTORS, PRODUCT = {"space": "factors"}, {"space": "product"}
CASES = {
    "linear": ("lora_linear", FACTORS),
    "svd": ("lora_linear", PRODUCT),
    "cat": ("lora_cat", {}),
    "ties": ("lora_ties", FACTORS | PEFT_TIES),
    "ties_svd": ("lora_ties", PRODUCT | PEFT_TIES),
    "magnitude_prune": ("lora_magnitude_prune", FACTORS | {"density": 0.4}),
    "magnitude_prune_svd": ("lora_magnitude_prune", PRODUCT | {"density": 0.4}),
    "dare_linear": ("lora_dare_linear", FACTORS | {"drop_rate": 0.6}),
    "dare_linear_svd": ("lora_dare_linear", PRODUCT | {"drop_rate": 0.6}),
    "dare_ties": ("lora_dare_ties", FACTORS | {"drop_rate": 0.6, "combine": "count", "elect": "votes"}),
    "dare_ties_svd": ("lora_dare_ties", PRODUCT | {"drop_rate": 0.6, "combine": "count"}),
}
"""Ours by the name of peft's combination_type."""


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("ranks", ["equal", "mixed"])
def test_what_peft_makes_of_the_same_adapters(kind, ranks, request, tmp_path, monkeypatch):
    method, options = CASES[kind]
    adapters = request.getfixturevalue(ranks)
    if ranks == "mixed" and options.get("space") == "factors":
        with pytest.raises(IncompatibleModels, match=r"ranks \[2, 3, 4\]: their factors have no sum. Set space=product"):
            merged(adapters, tmp_path, method, **options)
        return
    if "dare" in kind:
        monkeypatch.setattr(torch, "bernoulli", our_draws(adapters, options["space"], options["drop_rate"]))
    theirs = {"density": 0.4} if {"density", "drop_rate"} & options.keys() else {}
    if "elect" in options:
        theirs["majority_sign_method"] = "frequency"
    expected = by_peft(adapters, kind, **theirs)
    if ranks == "mixed" and method != "lora_cat":
        options = options | {"rank": 4}  # peft's: the largest of the adapters, for every layer
    close(deltas(merged(adapters, tmp_path, method, **options)), expected, 1e-5)


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
    beside = merged(mixed, tmp_path / "cat", "lora_cat")
    close(deltas(beside), expected)
    ranks = {name: layer.rank for name, layer in open_adapter(beside).layers.items()}
    assert {ranks[name] for name in ranks if "o_proj" in name} == {3} and {ranks[name] for name in ranks if "q_proj" in name} == {9}
    close(deltas(merged(mixed, tmp_path / "svd", rank=9)), expected)


def test_a_smaller_rank_is_the_best_of_that_rank_and_says_what_it_left_out(mixed, tmp_path):
    exact = deltas(merged(mixed, tmp_path / "cat", "lora_cat"))
    config = MergeAdaptersConfig(options={"weights": WEIGHTS, "rank": 2})
    outcome = step.run(config, numbered(mixed), Context(tmp_path / "svd"))
    found = deltas(Input("merged", "adapter", "merged", outcome.outputs["adapter"].path, mixed[0].base))
    left = []
    for name, matrix in exact.items():
        u, s, v = torch.linalg.svd(matrix)
        torch.testing.assert_close(found[name], (u[:, :2] * s[:2]) @ v[:2], atol=2e-6, rtol=1e-4)
        left.append(float(s[:2].square().sum() / s.square().sum()))
    assert outcome.metrics["kept_energy"] == pytest.approx(min(left), rel=1e-5)
    assert (outcome.summary["ranks"], outcome.metrics["rank"]) == ([2], 2)


def test_knots_is_u_times_ties_of_s_v(mixed, tmp_path):
    """Dense float64: the decomposition of the changes side by side, the trim and vote on S V, and the way back."""
    found = deltas(merged(mixed, tmp_path, "knots", rank=9, density=0.5))
    name = next(name for name in found if name.endswith("0.self_attn.q_proj"))
    parts = [deltas(one)[name] for one in mixed]
    u, s, v = torch.linalg.svd(torch.cat(parts, 1), full_matrices=False)
    shared = torch.stack((s[:9, None] * v[:9]).split(parts[0].shape[1], 1))
    least = shared.abs().flatten(1).sort(1, descending=True).values[:, int(0.5 * shared[0].numel()) - 1]
    trimmed = shared * (shared.abs() >= least[:, None, None])
    wins = trimmed.sign() == torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64).view(3, 1, 1)
    total, divisor = (weights * trimmed * wins).sum(0), (weights * wins).sum(0)
    expected = u[:, :9] @ (total / torch.where(divisor == 0, 1.0, divisor))
    torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)


def test_without_a_trim_knots_of_what_agrees_is_its_mean(equal, tmp_path):
    """Copies agree everywhere, and have no directions but their own: half of the elements is half of those."""
    copies = [equal[0], replace(equal[0], sha256="copy")]
    close(deltas(merged(copies, tmp_path / "all", "knots", density=1, weights=[3, 1])), deltas(equal[0]))
    halves = [deltas(merged(copies[:count], tmp_path / f"half{count}", "knots", density=0.5, weights=[])) for count in (1, 2)]
    close(*halves)


def test_the_result_is_an_ordinary_peft_adapter_on_the_same_base(mixed, base, tmp_path):
    result = merged(mixed, tmp_path, "lora_cat")
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


def test_what_is_refused(equal, base, tmp_path):
    dora = make_lora(base, tmp_path / "dora", seed=1, use_dora=True)
    with pytest.raises(IncompatibleModels, match=r"dora holds .*lora_magnitude_vector.*'tune' makes one .*\(save_merged\), .* 'merge'"):
        merged([equal[0], dora], tmp_path / "work")
    elsewhere = llama_input(tmp_path / "elsewhere", seed=9)
    with pytest.raises(IncompatibleModels, match=r"stranger is on the base sha256:\w+, one on sha256:\w+.*tuned on one base"):
        merged([equal[0], make_lora(elsewhere, tmp_path / "stranger", seed=1)], tmp_path / "work")
    with pytest.raises(ConfigError, match="options of knots: Unknown option 'space'"):
        merged(equal, tmp_path / "work", "knots", space="factors")
    with pytest.raises(ConfigError, match="2 were given for 3 models"):
        merged(equal, tmp_path / "work", weights=[1.0, 2.0])
    with pytest.raises(ConfigError, match=r"\[1.0, -1.0, 0.0\] sum to zero, so they have no average. Change a weight, or set combine=sum"):
        merged(equal, tmp_path / "work", "lora_ties", weights=[1.0, -1.0, 0.0])
    rows = write_dataset(tmp_path / "text", base.path, "text")
    with pytest.raises(ConfigError, match="The method lora_cat reads no rows. Leave out the input 'dataset'"):
        step.run(MergeAdaptersConfig(method="lora_cat"), numbered(equal) | {"dataset": rows}, Context(tmp_path / "work"))


def test_an_adapter_of_another_kind_or_with_nan_is_refused(equal, base, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), IA3Config(task_type="CAUSAL_LM"))
    save_adapter(model, tmp_path / "ia3", method="ia3", base_sha256=base.sha256, task="causal_lm")
    with pytest.raises(IncompatibleModels, match="ia3 is of the type .*IA3. Merge adapters that were made by LoRA"):
        merged([equal[0], Input("ia3", "adapter", "ia3", tmp_path / "ia3", base)], tmp_path / "work")
    broken = make_lora(base, tmp_path / "broken", seed=1)
    tensors = load_file(broken.path / "adapter_model.safetensors")
    tensors[min(tensors)][0, 0] = float("nan")
    save_file(tensors, broken.path / "adapter_model.safetensors")
    with pytest.raises(InvalidInput, match="of broken holds NaN or infinity"):
        merged([equal[0], broken], tmp_path / "work")


def test_adapters_are_borrowed(equal, tmp_path):
    files = [path for one in (*equal, equal[0].base) for path in sorted(one.path.rglob("*")) if path.is_file()]
    before = [path.read_bytes() for path in files]
    merged(equal, tmp_path, "lora_dare_ties")
    assert [path.read_bytes() for path in files] == before
