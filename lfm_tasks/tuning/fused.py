"""LoRA's linear layer as one function: the same value as peft's, with fewer passes over the activations.

peft computes ``W x``, ``B A x``, the scaling and the sum one after the other, each in memory of its own, and autograd does
the like backwards. Here the low-rank part is added in place by the matrix product itself, and only ``x`` and ``A x`` are
kept. On a small model the passes saved are a good part of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional


class FusedLora(torch.autograd.Function):
    """``y = x W^T + b + s (x A^T) B^T`` for ``x`` ``[..., in]``; gradients for x, A and B, none for W and b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ down.t()
        y = functional.linear(rows, weight, bias).addmm_(hidden, up.t(), alpha=scaling)
        ctx.save_for_backward(rows, weight, down, up, hidden)
        ctx.scaling, ctx.shape = scaling, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, hidden = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_hidden = (grad @ up).mul_(ctx.scaling)
        grad_x = (grad @ weight).addmm_(grad_hidden, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_hidden.t() @ rows, (grad.t() @ hidden).mul_(ctx.scaling), None


@contextmanager
def fused_lora(model: nn.Module) -> Iterator[None]:
    """Inside the block the plain LoRA layers of ``model`` compute by :class:`FusedLora`. Others are left alone: those with
    dropout, a variant (DoRA), more than one adapter, or a base layer that is no plain float32 ``nn.Linear``."""
    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: Linear) -> bool:
    (name,) = layer.active_adapters if len(layer.active_adapters) == 1 else (None,)
    return (
        name in layer.lora_A
        and name not in layer.lora_variant
        and type(layer.base_layer) is nn.Linear
        and layer.base_layer.weight.dtype == torch.float32
        and not layer.base_layer.weight.requires_grad
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.lora_bias[name]
        and not layer.merged
    )


def _forward(layer: Linear, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x)
    (name,) = layer.active_adapters
    base = layer.base_layer
    return FusedLora.apply(x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
