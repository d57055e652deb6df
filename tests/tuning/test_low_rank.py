"""LoRA, rsLoRA and DoRA against the formulas of their papers, in float64 by hand; the fused layer against autograd."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import Linear

from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.tuning.fused import FusedLora, fused_lora
from lfm_tasks.tuning.methods.config import LoraConfig
from lfm_tasks.tuning.methods.lora import DORA, LORA, RSLORA
from tests.tuned import llama_input

RANK, ALPHA = 4, 6.0
LAYER = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return llama_input(tmp_path_factory.mktemp("low_rank"))


def adapted(base, method):
    """The model with random A and B (and m scaled), and the layer looked at."""
    model = method.apply(open_causal_lm(base), LoraConfig(rank=RANK, alpha=ALPHA), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if "magnitude" in name:
                parameter.mul_(1 + torch.rand(parameter.shape, generator=generator))
    return model, model.get_submodule(f"base_model.model.{LAYER}")


def parts(layer):
    return layer.base_layer.weight.double(), layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()


@pytest.mark.parametrize(
    ("method", "weight"),
    [
        (LORA, lambda w, a, b, m: w + ALPHA / RANK * b @ a),
        (RSLORA, lambda w, a, b, m: w + ALPHA / RANK**0.5 * b @ a),
        (DORA, lambda w, a, b, m: m[:, None] * (w + ALPHA / RANK * b @ a) / (w + ALPHA / RANK * b @ a).norm(dim=1, keepdim=True)),
    ],
    ids=["lora", "rslora", "dora"],
)
def test_the_layer_is_the_papers_formula_before_and_after_merging(base, method, weight):
    model, layer = adapted(base, method)
    magnitude = layer.lora_magnitude_vector["default"].weight.double() if method is DORA else None
    expected = weight(*parts(layer), magnitude).detach()
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer.eval()(x).double(), x.double() @ expected.T, atol=1e-4, rtol=1e-4)
    merged = method.merge(model)
    torch.testing.assert_close(merged.get_submodule(LAYER).weight.double(), expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_the_fused_layer_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x, down, up = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (4, 2))
    )
    weight, bias = torch.randn(4, 5, generator=generator, dtype=torch.float64), torch.randn(4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, a, b: FusedLora.apply(x, weight, bias, a, b, 0.7), (x, down, up))


def test_the_fused_layer_gives_pefts_values_and_gradients_and_leaves_the_model_as_it_was(base):
    model, layer = adapted(base, LORA)
    ids = torch.arange(5, 25).view(2, 10)

    def outcome():
        model.zero_grad()
        logits = model(input_ids=ids).logits
        logits.square().mean().backward()
        return logits.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}

    plain, gradients = outcome()
    with fused_lora(model):
        assert "forward" in vars(layer)
        fused, fused_gradients = outcome()
    assert "forward" not in vars(layer)
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(fused_gradients[name], gradient, atol=1e-6, rtol=1e-4)


def test_layers_with_dropout_or_a_variant_are_left_to_peft(base):
    for method, config in ((LORA, LoraConfig(dropout=0.1)), (DORA, LoraConfig())):
        model = method.apply(open_causal_lm(base), config, 0)
        with fused_lora(model):
            assert not any("forward" in vars(module) for module in model.modules() if isinstance(module, Linear))
