"""SMILE: the layer against the paper's formula; the mixture through files, opened and evaluated."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels, InvalidInput
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.evaluate import run as evaluate
from lfm_tasks.models.mixtures.smile import SmileLinear
from lfm_tasks.models.opening import open_causal_lm, open_classifier, open_model, open_with_head
from lfm_tasks.reuse.mixtures import mix
from lfm_tasks.reuse.mixtures.config import MixConfig
from lfm_tasks.reuse.mixtures.smile import factors, layer_tensors
from tests.far import check_read_once, models_far
from tests.mixed import CLASSES, IDS, decoders, edit, encoders, files, given, mixed, noisy, result
from tests.prepared import write_labelled
from tests.toys import make_tokenizer
from tests.tuned import Context, StoppingAt


def layer_of(base: nn.Linear, experts: list[nn.Linear], rank: int, gate_rank: int, top_k: int) -> SmileLinear:
    with torch.no_grad():
        differences = torch.stack([expert.weight - base.weight for expert in experts])
        offset = None if base.bias is None else torch.stack([expert.bias - base.bias for expert in experts])
        tensors = layer_tensors(differences, offset, rank, gate_rank)
    return SmileLinear(base, *(tensors.get(part) for part in ("gate", "down", "up", "offset")), top_k)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 1)])
@pytest.mark.parametrize("rank", [0, 999])
@pytest.mark.parametrize("bias", [True, False])
def test_a_forced_choice_is_that_expert(shape, rank, bias):
    torch.manual_seed(0)
    base, *experts = (nn.Linear(*shape, bias=bias).double() for _ in range(4))
    layer, x = layer_of(base, experts, rank, 2, 3), torch.randn(2, 5, shape[0]).double()
    for place, expert in enumerate(experts):
        torch.testing.assert_close(layer.mix(x, torch.eye(3)[place].double().expand(2, 5, 3)), expert(x))


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_output_is_the_paper_s_formula_token_by_token(shape, top_k):
    torch.manual_seed(0)
    base, *experts = (nn.Linear(*shape).double() for _ in range(4))
    layer, x = layer_of(base, experts, 2, 3, top_k), torch.randn(11, shape[0]).double()
    svd = [torch.linalg.svd(expert.weight - base.weight, full_matrices=True) for expert in experts]
    for token, got in zip(x, layer(x), strict=True):
        routed = torch.stack([(vh[:3] @ token).norm() for _, _, vh in svd]).softmax(0)
        best = routed.topk(top_k).indices
        want = base(token)
        for t in best.tolist():
            u, s, vh = svd[t]
            low_rank = u[:, :2] @ torch.diag(s[:2]) @ vh[:2]
            want = want + routed[t] / routed[best].sum() * (low_rank @ token + experts[t].bias - base.bias)
        torch.testing.assert_close(got, want)


def test_all_experts_weighted_as_routed_are_task_arithmetic_with_those_weights():
    torch.manual_seed(0)
    base, *experts = (nn.Linear(6, 4).double() for _ in range(4))
    layer, x = layer_of(base, experts, 999, 2, 3), torch.randn(1, 6).double()
    weights = layer.route(x)[0]
    assert weights.sum().item() == pytest.approx(1) and bool((weights > 0).all())
    weight = base.weight + sum(w * (e.weight - base.weight) for w, e in zip(weights, experts, strict=True))
    bias = base.bias + sum(w * (e.bias - base.bias) for w, e in zip(weights, experts, strict=True))
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_an_expert_that_changed_nothing_claims_no_token(shape):
    one = torch.outer(torch.randn(shape[0]), torch.randn(shape[1]))
    gate, down, up = factors(one, 2, 3)
    assert gate.shape == (3, shape[1]) and gate[1:].abs().max() == 0
    torch.testing.assert_close((up @ down).float(), one)
    assert not factors(torch.zeros(shape), 2, 3)[0].any()


@pytest.mark.parametrize("rank", [0, 999])
def test_one_expert_of_full_rank_is_the_expert(tmp_path, rank):
    models = decoders(tmp_path)[:2]
    mixture = result(mixed(models, tmp_path / "work", options={"rank": rank, "others": "average"}))
    expert = open_causal_lm(given(models[1]))(IDS).logits
    assert not torch.allclose(open_causal_lm(given(models[0]))(IDS).logits, expert, atol=1e-2)
    torch.testing.assert_close(open_model(mixture)(IDS).logits, expert, atol=2e-5, rtol=1e-4)


SPECTRA = {
    "flat": lambda size: torch.linspace(1, 0.9, size),
    "falling": lambda size: torch.arange(1, size + 1) ** -1.0,
    "steep": lambda size: torch.logspace(0, -12, size),
    "one, then much smaller ones": lambda size: torch.cat([torch.ones(1), torch.linspace(2e-4, 1e-4, size - 1)]),
    "all but equal": lambda size: 1 + 1e-6 * torch.linspace(1, 0, size),
    "of low rank": lambda size: torch.cat([torch.linspace(1, 1e-4, 12), torch.zeros(size - 12)]),
}


@pytest.mark.parametrize("shape", [(48, 48), (160, 48), (48, 160)])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("rank", [8, 24])
def test_an_expert_is_as_near_as_the_truncated_svd_and_its_gate_spans_the_same(shape, spectrum, rank):
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, 48, generator=generator).double())[0] for size in shape)
    difference = (u * SPECTRA[spectrum](48).double() @ v.T).float()
    gate, down, up = factors(difference, rank, 4)
    exact = difference.double()
    left, values, right = torch.linalg.svd(exact, full_matrices=False)
    best = (exact - left[:, :rank] * values[:rank] @ right[:rank]).norm()
    assert abs((exact - up.double() @ down.double()).norm() - best) < 1e-6 * exact.norm()
    x = torch.randn(shape[1], 50, generator=generator).double()
    if values[3] > 1.001 * values[4]:  # else the four are any of many
        torch.testing.assert_close((gate.double() @ x).norm(dim=0), (right[:4] @ x).norm(dim=0), atol=0, rtol=1e-3)
    assert (gate.double() @ exact.T).norm() == pytest.approx(values[:4].norm().item(), rel=1e-5)


def test_what_is_written_is_opened_bit_for_bit_and_written_again(tmp_path):
    models = encoders(tmp_path)
    first, again = (mixed(models, tmp_path / work, options={"rank": 4, "gate_rank": 2}) for work in ("a", "b"))
    assert files(result(first).path) == files(result(again).path)
    model = open_with_head(result(first), given(models[1]))
    tensors = load_file(result(first).path / "experts.safetensors")
    layer = model.bert.encoder.layer[1].intermediate.dense
    assert isinstance(layer, SmileLinear) and layer.top_k == 1
    for part in ("gate", "down", "up", "offset"):
        assert torch.equal(getattr(layer, part), tensors[f"encoder.layer.1.intermediate.dense.{part}"])
    assert torch.equal(layer.weight, load_file(models[0] / "model.safetensors")["encoder.layer.1.intermediate.dense.weight"])
    sizes = [(m.base.in_features, m.base.out_features) for m in model.modules() if isinstance(m, SmileLinear)]
    assert first.metrics["mixed_modules"] == len(sizes) == 13
    assert first.metrics["extra_parameters"] == sum(2 * (4 * (i + o) + o + 2 * i) for i, o in sizes)


@pytest.mark.parametrize("others", ["base", "average"])
def test_models_that_are_far_away_are_read_once_and_the_result_is_the_same(tmp_path, monkeypatch, others):
    """What the models are averaged in is read a second time, unless it is small and still there."""
    monkeypatch.setattr("lfm_tasks.reuse.ranged.SPAN", 1 << 10 if others == "base" else 8 << 20)
    models, options = decoders(tmp_path), {"rank": 4, "others": others}
    inputs = {"base": given(models[0])} | {f"models.{place}": given(one) for place, one in enumerate(models[1:])}
    away = models_far(inputs, tmp_path / "far")
    found = mix.run(MixConfig(options=options), away, Context(tmp_path / "found"))
    assert files(result(found).path) == files(result(mixed(models, tmp_path / "work", options=options)).path)
    check_read_once(away)


def test_stopped_and_resumed_far_away_is_read_once_more_and_the_result_is_the_same(tmp_path):
    models, options = decoders(tmp_path), {"rank": 4}
    inputs = {"base": given(models[0])} | {f"models.{place}": given(one) for place, one in enumerate(models[1:])}
    with pytest.raises(AttemptKilled, match="5 of 14 steps are kept"):
        mix.run(MixConfig(options=options), models_far(inputs, tmp_path / "far"), StoppingAt(tmp_path / "again", 5))
    away = models_far(inputs, tmp_path / "once more")
    found = mix.run(MixConfig(options=options), away, Context(tmp_path / "again"))
    assert files(result(found).path) == files(result(mixed(models, tmp_path / "work", options=options)).path)
    check_read_once(away)


def test_padding_changes_nothing_and_the_head_is_the_expert_s(tmp_path):
    models = encoders(tmp_path)
    model = open_with_head(result(mixed(models, tmp_path / "work")), given(models[2]), CLASSES[1])
    whole = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    padded = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], 1)
    mask = (torch.arange(8) < 5).long().expand(2, 8)
    torch.testing.assert_close(model(input_ids=padded, attention_mask=mask).logits, whole, atol=1e-6, rtol=1e-5)
    assert torch.equal(model.classifier.weight, load_file(models[2] / "model.safetensors")["classifier.weight"])


def test_a_mixture_of_classifiers_leaves_its_own_head_where_another_stands_in(tmp_path):
    base, one, _ = encoders(tmp_path)
    shutil.copytree(one, tmp_path / "moved")
    save_file(noisy(load_file(one / "model.safetensors"), 5), tmp_path / "moved" / "model.safetensors", {"format": "pt"})
    mixture = result(mixed([one, tmp_path / "moved"], tmp_path / "work"))
    assert isinstance(open_classifier(mixture).classifier, SmileLinear)
    with pytest.raises(IncompatibleModels, match="is a mixture .smile., which has no single set of weights"):
        open_with_head(given(base), mixture)
    other = open_with_head(mixture, given(one))
    assert isinstance(other.classifier, nn.Linear) and isinstance(other.bert.pooler.dense, SmileLinear)


def test_it_is_evaluated_with_the_head_of_an_expert(tmp_path):
    models = encoders(tmp_path)
    mixture = result(mixed(models, tmp_path / "work", options={"rank": 0, "top_k": 2}))
    data = write_labelled(tmp_path / "data", models[0], labels=CLASSES[0])
    inputs = {"model": mixture, "dataset": given(data, "dataset"), "head": given(models[1])}
    outcome = evaluate(EvaluateConfig(bootstrap_samples=100), inputs, Context(tmp_path / "report"))
    assert 0 <= outcome.metrics["classification/accuracy"] <= 1


def test_gpt2_s_transposed_layers_are_mixed_too(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "base")
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2))
    model.save_pretrained(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "expert")
    moved = noisy(load_file(tmp_path / "base" / "model.safetensors"), 3)
    save_file(moved, tmp_path / "expert" / "model.safetensors", {"format": "pt"})
    mixture = result(mixed([tmp_path / "base", tmp_path / "expert"], tmp_path / "work", options={"rank": 999, "others": "average"}))
    opened = open_causal_lm(mixture)
    assert isinstance(opened.transformer.h[0].attn.c_attn.base, Conv1D)
    torch.testing.assert_close(opened(IDS).logits, open_causal_lm(given(tmp_path / "expert"))(IDS).logits, atol=2e-5, rtol=1e-4)


def test_stock_tools_refuse_it_rather_than_open_the_base(tmp_path):
    mixture = result(mixed(decoders(tmp_path), tmp_path / "work"))
    assert not (mixture.path / "MLmodel").exists()
    with pytest.raises(OSError, match="no file named model.safetensors"):
        AutoModelForCausalLM.from_pretrained(mixture.path)
    assert AutoTokenizer.from_pretrained(mixture.path)("the fox").input_ids
    with pytest.raises(IncompatibleModels, match="is a mixture .smile., which has no single set of weights"):
        mixed([mixture.path, mixture.path], tmp_path / "again")


def test_what_does_not_fit_is_said(tmp_path):
    models = decoders(tmp_path)
    mixture = result(mixed(models, tmp_path / "work", options={"rank": 4}, modules=["*.mlp.*"]))
    assert set(json.loads((mixture.path / "lfm_mixture.json").read_text())["modules"]) == {
        f"model.layers.{layer}.mlp.{part}_proj" for layer in (0, 1) for part in ("gate", "up", "down")
    }
    tensors = load_file(mixture.path / "experts.safetensors")

    def broken(name, change):
        shutil.copytree(mixture.path, tmp_path / name)
        change(tmp_path / name)
        return given(tmp_path / name)

    short = {name: tensor[:, :3].clone() if name.endswith("0.mlp.up_proj.down") else tensor for name, tensor in tensors.items()}
    with pytest.raises(IncompatibleModels, match=r"0.mlp.up_proj.down' is \[2, 3, 32\], and \[2, 4, 32\] is expected"):
        open_model(broken("short", lambda path: save_file(short, path / "experts.safetensors")))
    less = {name: tensor for name, tensor in tensors.items() if not name.endswith("0.mlp.up_proj.gate")}
    with pytest.raises(IncompatibleModels, match=r"0.mlp.up_proj.gate' is absent, and \[2, 16, 32\] is expected"):
        open_model(broken("less", lambda path: save_file(less, path / "experts.safetensors")))
    with pytest.raises(IncompatibleModels, match=r"'odd' is \[1\], and no such tensor is expected"):
        open_model(broken("more", lambda path: save_file(tensors | {"odd": torch.ones(1)}, path / "experts.safetensors")))
    with pytest.raises(InvalidInput, match="The mixture has no experts.safetensors"):
        open_model(broken("half", lambda path: (path / "experts.safetensors").unlink()))
    for change, says in (
        ({"format": 9}, "has format 9; this version reads 1"),
        ({"odd": 1}, "cannot be read .TypeError"),
        ({"method": "smiles"}, "Unknown kind of mixture 'smiles'. Did you mean 'smile'"),
        ({"modules": {"model.nothing": {}}}, "mixes 'model.nothing', which LlamaForCausalLM does not have"),
    ):
        with pytest.raises(InvalidInput, match=says):
            open_model(broken(says[:9], lambda path, change=change: edit(path, "lfm_mixture.json", lambda c: c.update(change))))
    with pytest.raises(ConfigError, match="top_k 3: choose between 1 and the number of experts, 2"):
        mixed(models, tmp_path / "many", options={"top_k": 3})
    with pytest.raises(ConfigError, match=r"modules nothing: LlamaForCausalLM has nothing of these names that smile can mix"):
        mixed(models, tmp_path / "none", modules=["nothing"])
    with pytest.raises(ConfigError, match="The method smile needs no data. Leave the input 'datasets' out"):
        mixed(models, tmp_path / "data", [models[0]])
