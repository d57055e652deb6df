"""SMILE (Tang et al. 2024, arXiv 2408.10174): low-rank experts beside every linear layer, routed token by token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lfm_tasks.models.mixtures.files import Description


class SmileLinear(nn.Module):
    """``base(x) + sum_t p_t (up_t down_t x + offset_t)``, with the weights p of the ``top_k`` experts whose gates answer x most.

    ``gate`` [experts, gate_rank, in]. ``up`` [experts, out, rank] and ``down`` [experts, rank, in]; dense experts have the whole
    difference [experts, out, in] in ``down`` and no ``up``. ``offset`` [experts, out]: differences of the biases, or None.
    """

    def __init__(self, base: nn.Module, gate: Tensor, down: Tensor, up: Tensor | None, offset: Tensor | None, top_k: int) -> None:
        super().__init__()
        self.base, self.top_k = base, top_k
        for name, tensor in {"gate": gate, "down": down, "up": up, "offset": offset}.items():
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor.contiguous()))

    @property
    def weight(self) -> Tensor:
        """The base's: some architectures ask a layer for its precision."""
        return self.base.weight

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
        return self.base(x) + added if self.offset is None else self.base(x) + added + weights @ self.offset


def layout(model: nn.Module, description: Description, places: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the experts' tensors. An entry of ``description.modules`` is ``{"rank", "gate_rank", "offset"}``."""
    experts, shapes = description.experts, {}
    for name, place in places.items():
        (inner, outer), entry = width(model.get_submodule(place)), description.modules[name]
        rank = entry["rank"]
        shapes[f"{name}.gate"] = (experts, entry["gate_rank"], inner)
        shapes[f"{name}.down"] = (experts, rank or outer, inner)
        shapes |= {f"{name}.up": (experts, outer, rank)} if rank else {}
        shapes |= {f"{name}.offset": (experts, outer)} if entry["offset"] else {}
    return shapes


def install(model: nn.Module, description: Description, tensors: Mapping[str, Tensor], places: Mapping[str, str]) -> None:
    """Put the mixtures in the ``places`` {name in the description: name in ``model``}."""
    for name, place in places.items():
        parts = [tensors.get(f"{name}.{part}") for part in ("gate", "down", "up", "offset")]
        model.set_submodule(place, SmileLinear(model.get_submodule(place), *parts, top_k=description.options["top_k"]))


def is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | Conv1D)


def width(layer: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; GPT-2 keeps its weights transposed."""
    rows, columns = layer.weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)
