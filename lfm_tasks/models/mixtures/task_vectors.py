"""Weights that are a base's plus a weighted sum of task vectors, and the routers that say with which weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lfm_tasks.models.mixtures.files import Description

ROUTER = "router"
"""Routers' tensors in the file are named ``router.<router>.<tensor>``, task vectors ``<module>.<parameter>``."""


class Router(nn.Module):
    """Weights [..., experts] of an input [..., width]: a learned vector (depth 0), one linear layer, or two with a ReLU between them.

    Not normalised: the weights stand where task arithmetic has its scale.
    """

    def __init__(self, width: int, experts: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden) if depth == 2 else None
        self.out = nn.Linear(hidden if depth == 2 else width, experts) if depth else None
        self.bias = None if depth else nn.Parameter(torch.zeros(experts))

    def forward(self, x: Tensor) -> Tensor:
        if self.out is None:
            return self.bias
        return self.out(x if self.hidden is None else self.hidden(x).relu())


def combined(base: Tensor, task_vectors: Tensor, weights: Tensor) -> Tensor:
    """``base + sum_t weights_t task_vectors_t``: [*shape] for weights [experts], [batch, *shape] for [batch, experts]; one product."""
    return base + (weights @ task_vectors.flatten(1)).unflatten(-1, base.shape)


def kept(elements: int, density: float) -> int:
    """How many of a tensor's elements a sparse task vector keeps."""
    return max(1, round(density * elements))


def sparse(task_vectors: Tensor, density: float) -> tuple[Tensor, Tensor]:
    """Values and places [experts, kept] of the elements that are largest by magnitude, in the order of their places."""
    flat = task_vectors.flatten(1)
    places = flat.abs().topk(kept(flat.shape[1], density)).indices.sort().values
    return flat.gather(1, places), places.int()


def dense(values: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    return values.new_zeros(len(values), torch.Size(shape).numel()).scatter(1, places.long(), values).unflatten(1, shape)


def task_vector_layout(model: nn.Module, description: Description, places: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Sparse ones, where the options have a ``density``, are two tensors: ``….values`` and ``….places``."""
    experts, density, shapes = description.experts, description.options.get("density"), {}
    for name, place in places.items():
        for part, parameter in model.get_submodule(place).named_parameters():
            if density is None:
                shapes[f"{name}.{part}"] = (experts, *parameter.shape)
            else:
                shapes |= {f"{name}.{part}.{kind}": (experts, kept(parameter.numel(), density)) for kind in ("values", "places")}
    return shapes


def read_task_vectors(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """[experts, *shape] of the parameter ``name``."""
    return tensors[name] if name in tensors else dense(tensors[f"{name}.values"], tensors[f"{name}.places"], shape)


def router_layout(routers: Mapping[str, int], description: Description) -> dict[str, tuple[int, ...]]:
    """``routers``: the width of each router's input."""
    with torch.device("meta"):
        made = {name: make_router(width, description) for name, width in routers.items()}
    return {f"{ROUTER}.{name}.{part}": tuple(tensor.shape) for name, one in made.items() for part, tensor in one.state_dict().items()}


def read_routers(tensors: Mapping[str, Tensor], routers: Mapping[str, int], description: Description) -> dict[str, Router]:
    made = {name: make_router(width, description) for name, width in routers.items()}
    for name, router in made.items():
        router.load_state_dict({part: tensors[f"{ROUTER}.{name}.{part}"].float() for part in router.state_dict()})
    return made


def make_router(width: int, description: Description) -> Router:
    """The inner layer of a router of hidden states is as wide as they are, that of a preference twice as wide."""
    hidden = 2 * width if description.method == "pareto_moe" else width
    return Router(width, description.experts, description.options["router_depth"], hidden)
