"""SMILE (Tang et al. 2024, arXiv 2408.10174): what each model changed in a linear layer, as a low-rank expert beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from scipy.linalg import eigh
from torch import Tensor

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.mixtures.files import Description, save_mixture
from lfm_tasks.models.mixtures.smile import is_linear
from lfm_tasks.models.resuming import below, under
from lfm_tasks.reuse.mixtures.method import Mixing, MixMethod
from lfm_tasks.reuse.mixtures.modules import weight_of


def factors(difference: Tensor, rank: int, gate_rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(gate, down, up)`` of one expert with the difference ``[out, in]``: ``up @ down`` is its best approximation of ``rank``.

    The gate's rows are the difference's first right singular vectors; directions that it does not have are zero, so an expert that
    did not change a layer claims no token there. ``rank`` 0: ``down`` is the difference and ``up`` None.
    """
    tall = difference.shape[0] >= difference.shape[1]
    values, vectors = leading(difference if tall else difference.T, max(rank, gate_rank))
    wide, gated = difference.to(vectors.dtype), vectors[:, :gate_rank]
    there = values[:gate_rank] > 1e-7 * values[0]
    right = gated.T if tall else gated.T @ wide / values[:gate_rank, None].clamp(min=torch.finfo(wide.dtype).tiny)
    gate = torch.where(there[:, None], right, 0.0)
    if rank == 0:
        return gate, wide, None
    kept = vectors[:, :rank]
    return (gate, kept.T, wide @ kept) if tall else (gate, kept.T @ wide, kept)


def leading(tall: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The ``most`` largest singular values of a matrix [rows, columns], and their right vectors [columns, most].

    From the Gram matrix, of which no other vectors are computed. In float64 unless all of these values are large enough beside the
    largest one that float32 tells their squares from its rounding.
    """
    size = tall.shape[1]
    values, vectors = _eigen(tall, min(most, size))
    if tall.dtype != torch.float64 and not values[-1] > 1e-4 * values[0]:
        values, vectors = _eigen(tall.double(), min(most, size))
    return values.clamp(min=0).sqrt(), vectors


def _eigen(tall: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Of the Gram matrix, the largest first. By scipy: torch has no driver for some of the vectors."""
    size = tall.shape[1]
    found = eigh((tall.T @ tall).numpy(), subset_by_index=[size - most, size - 1], overwrite_a=True)
    return tuple(torch.from_numpy(one).flip(-1) for one in found)


def layer_tensors(differences: Tensor, offset: Tensor | None, rank: int, gate_rank: int) -> dict[str, Tensor]:
    """The experts of one layer by the names of :class:`~lfm_tasks.models.mixtures.smile.SmileLinear`; differences [experts, out, in]."""
    gates, downs, ups = zip(*(factors(one, rank, gate_rank) for one in differences), strict=True)
    tensors = {"gate": torch.stack(gates), "down": torch.stack(downs)}
    tensors |= {"up": torch.stack(ups)} if rank else {}
    return tensors | ({"offset": offset} if offset is not None else {})


def build(mixing: Mixing, directory: Path) -> dict[str, float]:
    options, experts = mixing.options, len(mixing.models)
    if options.top_k > experts:
        raise ConfigError(f"top_k {options.top_k}: choose between 1 and the number of experts, {experts}.")
    layers = {name: layer for name, layer in mixing.skeleton.named_modules() if is_linear(layer)}
    chosen = {f"{name}.weight": name for name in mixing.chosen([name for name in layers if f"{name}.weight" in mixing.mergeable])}
    weights = [weight for weight in mixing.base.in_order if weight in chosen]
    names, before = [chosen[weight] for weight in weights], mixing.kept()
    first, tensors = int(before.get("step", 0)), below(before, "tensor")
    for done, weight in enumerate(mixing.passing(set(weights[first:])), start=first + 1):
        name, dtype = chosen[weight], mixing.base.tensors[weight].dtype
        tensors |= {f"{name}.{part}": tensor.to(dtype) for part, tensor in _layer(mixing, name, layers[name], options).items()}
        mixing.report(done, len(names), lambda done=done, now=tensors: {"step": torch.tensor(done)} | under(now, "tensor"))
    modules = {name: _described(tensors, name) for name in names if f"{name}.gate" in tensors}
    mixed = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    others = sorted(mixing.mergeable - mixed) if options.others == "average" else []
    base = mixing.summed(others, 1 / experts)
    description = Description("smile", experts, modules, options.model_dump())
    save_mixture(description, base, tensors, mixing.base.directory, directory)
    return {"mixed_modules": float(len(modules)), "extra_parameters": float(sum(tensor.numel() for tensor in tensors.values()))}


def _described(tensors: Mapping[str, Tensor], name: str) -> dict[str, int | bool]:
    rank = tensors[f"{name}.up"].shape[2] if f"{name}.up" in tensors else 0
    return {"rank": rank, "gate_rank": tensors[f"{name}.gate"].shape[1], "offset": f"{name}.offset" in tensors}


def _layer(mixing: Mixing, name: str, layer: torch.nn.Module, options) -> dict[str, Tensor]:
    """Nothing where no expert differs from the base."""
    differences = weight_of(layer, mixing.differences(f"{name}.weight"))
    offset = mixing.differences(f"{name}.bias") if f"{name}.bias" in mixing.mergeable else None
    if not differences.any() and (offset is None or not offset.any()):
        return {}
    return layer_tensors(differences, offset, options.rank, options.gate_rank)


SMILE = MixMethod(build)
