"""SMILE (Tang et al. 2024, arXiv 2408.10174): low-rank experts beside every linear layer, routed without any training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lfm_tasks.errors import ConfigError


class SmileLinear(nn.Module):
    """``W0 x + b0 + sum_t p_t (U_t V_t x + db_t)``, with the weights p of the ``top_k`` experts whose gates answer x most.

    ``down`` [experts, rank, in] holds S V^T, ``up`` [experts, out, rank] holds U; a dense layer has the whole difference
    [experts, out, in] in ``down`` and no ``up``. ``gate`` [experts, gate_rank, in], ``bias`` [experts, out] or None.
    """

    def __init__(self, base: nn.Linear, gate: Tensor, down: Tensor, up: Tensor | None, bias: Tensor | None, top_k: int) -> None:
        super().__init__()
        self.base, self.top_k = base, top_k
        for name, tensor in {"gate": gate, "down": down, "up": up, "bias": bias}.items():
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor.contiguous()))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, self.route(x))

    def route(self, x: Tensor) -> Tensor:
        """Weights [..., experts] that sum to 1; zero but for ``top_k`` of them."""
        answers = torch.einsum("...i,tgi->...tg", x, self.gate).norm(dim=-1)
        weights, chosen = answers.softmax(-1).topk(self.top_k, dim=-1)
        return torch.zeros_like(answers).scatter(-1, chosen, weights / weights.sum(-1, keepdim=True))

    def mix(self, x: Tensor, weights: Tensor) -> Tensor:
        """The layer's output for given ``weights`` [..., experts]; all tokens in one product, whichever experts they have."""
        hidden = torch.einsum("...i,tki->...tk", x, self.down) * weights.unsqueeze(-1)
        added = hidden.sum(-2) if self.up is None else torch.einsum("...tk,tok->...o", hidden, self.up)
        return self.base(x) + added if self.bias is None else self.base(x) + added + weights @ self.bias


def smile_linear(base: nn.Linear, experts: Sequence[nn.Linear], rank: int, gate_rank: int, top_k: int) -> SmileLinear | None:
    """The mixture of one layer, or None where no expert differs from the base. ``rank`` 0 keeps the differences dense."""
    with torch.no_grad():
        difference = torch.stack([expert.weight - base.weight for expert in experts])
        bias = None if base.bias is None else torch.stack([expert.bias - base.bias for expert in experts])
        if not difference.any() and (bias is None or not bias.any()):
            return None
        wide = difference if difference.dtype == torch.float64 else difference.float()
        u, s, vh = torch.linalg.svd(wide, full_matrices=False)
        gate = vh[:, :gate_rank].to(difference.dtype)
        if rank == 0:
            return SmileLinear(base, gate, difference, None, bias, top_k)
        down = (s.unsqueeze(-1) * vh)[:, :rank].to(difference.dtype)
        return SmileLinear(base, gate, down, u[:, :, :rank].to(difference.dtype), bias, top_k)


def smile(
    base: nn.Module, experts: Sequence[nn.Module], rank: int, gate_rank: int, top_k: int, mixed: Callable[[str], bool] = lambda name: True
) -> nn.Module:
    """A copy of ``base`` with a mixture for every linear layer whose name is ``mixed``; everything else stays the base's."""
    if rank < 0 or gate_rank < 1:
        raise ConfigError(f"rank {rank} and gate_rank {gate_rank}: rank is 0 (dense) or more, gate_rank is 1 or more")
    if not 1 <= top_k <= len(experts):
        raise ConfigError(f"top_k {top_k}: choose between 1 and the number of experts, {len(experts)}")
    model = copy.deepcopy(base)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and mixed(name):
            same = [_same_layer(expert, name, layer, place) for place, expert in enumerate(experts)]
            mixture = smile_linear(layer, same, rank, gate_rank, top_k)
            if mixture is not None:
                model.set_submodule(name, mixture)
    return model


def added_parameters(model: nn.Module) -> int:
    """Numbers that the mixture has beyond its base: per layer ``T (k (in + out) + out if biased + gate_rank in)``."""
    layers = [layer for layer in model.modules() if isinstance(layer, SmileLinear)]
    return sum(value.numel() for layer in layers for value in layer.parameters(recurse=False))


def _same_layer(expert: nn.Module, name: str, layer: nn.Linear, place: int) -> nn.Linear:
    found = dict(expert.named_modules()).get(name)
    if not isinstance(found, nn.Linear) or found.weight.shape != layer.weight.shape or (found.bias is None) != (layer.bias is None):
        raise ConfigError(f"expert {place} has no linear layer {name} like the base's; leave {name} out of the mixture, or the expert")
    return found
