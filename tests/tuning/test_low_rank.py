"""LoRA, rsLoRA and DoRA against the formulas of their papers, in float64 by hand."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.models.opening import open_causal_lm
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
