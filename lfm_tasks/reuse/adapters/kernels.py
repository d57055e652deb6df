"""Merges of one layer's LoRA factors: any merge of task vectors on B A or on A and B apart; concatenation; KnOTS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.reuse.adapters.config import LoraTiesConfig, MagnitudePruneConfig, MergeAdaptersConfig
from lfm_tasks.reuse.adapters.lora import Factors
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.magnitudes import largest
from lfm_tasks.reuse.methods.config import TaskArithmeticConfig
from lfm_tasks.reuse.methods.dare import DARE_LINEAR, DARE_TIES
from lfm_tasks.reuse.methods.magmax import MAGMAX
from lfm_tasks.reuse.methods.task_arithmetic import TASK_ARITHMETIC
from lfm_tasks.reuse.methods.task_vectors import merge_task_vectors
from lfm_tasks.reuse.methods.ties import TIES, keep_from, kept


@dataclass(frozen=True)
class Layer:
    """What each adapter that changes a layer has for it. ``places`` are theirs among all ``adapters``."""

    name: str
    factors: tuple[Factors, ...]
    keys: tuple[str, ...]
    places: tuple[int, ...]
    adapters: int

    def weights(self, options: Any) -> list[float]:
        every = options.weights_of(self.adapters)
        return [every[place] for place in self.places]

    def rank(self, config: MergeAdaptersConfig) -> int:
        return config.rank or max(one.rank for one in self.factors)


@dataclass(frozen=True)
class AdapterMethod:
    kernel: Callable[[Layer, Any, MergeAdaptersConfig], Factors]
    searched: bool = False
    """The weights are found on a data set first (LoraHub)."""


def linear(layer: Layer, options: TaskArithmeticConfig, config: MergeAdaptersConfig) -> Factors:
    """scale * sum_i w_i B_i A_i, to its best approximation of the rank; no matrix of the layer's size is decomposed."""
    if config.space == "factors":
        return on_factors(TASK_ARITHMETIC, layer, options, config)
    return truncated(concatenate(layer, options, config), layer.rank(config))


def concatenate(layer: Layer, options: TaskArithmeticConfig, config: MergeAdaptersConfig) -> Factors:
    """The same sum exactly: the factors side by side. The ranks add up."""
    weights = layer.weights(options)
    ups = [one.up * (weight * options.scale) for one, weight in zip(layer.factors, weights, strict=True)]
    return Factors(torch.cat([one.down for one in layer.factors]), torch.cat(ups, 1))


def composed(layer: Layer, options: TaskArithmeticConfig, config: MergeAdaptersConfig) -> Factors:
    """As :func:`linear`; on factors (sum_i w_i B_i)(sum_i w_i A_i), every factor with the whole weight (Huang et al. 2023)."""
    if config.space == "product":
        return linear(layer, options, config)
    check_ranks(layer)
    weighted = list(zip(layer.factors, layer.weights(options), strict=True))
    return Factors(sum(one.down * weight for one, weight in weighted), sum(one.up * weight for one, weight in weighted))


def knots(layer: Layer, options: LoraTiesConfig, config: MergeAdaptersConfig) -> Factors:
    """[B_1 A_1, B_2 A_2, …] = U S [V_1, V_2, …]: TIES on the V_i, which share U S (Stoica et al. 2025)."""
    if config.space == "factors":
        raise ConfigError("space=factors: knots works on the product B A of each layer. Set space=product.")
    basis, shares = torch.linalg.qr(torch.cat([one.up for one in layer.factors], 1))
    shares = shares.split([one.rank for one in layer.factors], 1)
    side_by_side = torch.cat([share @ one.down for share, one in zip(shares, layer.factors, strict=True)], 1)
    u, s, v = torch.linalg.svd(side_by_side, full_matrices=False)
    parts = [part.contiguous() for part in v.split(layer.factors[0].down.shape[1], 1)]
    down = TIES.kernel(_group(layer.name, parts, layer, config), _weighted(options, layer.weights(options)))
    return truncated(Factors(down, basis @ (u * s)), layer.rank(config))


def magnitude_prune(group: Group, options: MagnitudePruneConfig) -> Tensor:
    """theta_0 + scale * sum_i w_i of the largest elements of tau_i."""
    full = options.density == 1
    least = [0.0 if full else largest(group.base, model, kept(options.density, model.numel()))[0] for model in group.models]
    return merge_task_vectors(group, options.weights_of(len(group.models)), options.scale, [keep_from(one) for one in least])


def task_vector_method(method: MergeMethod) -> AdapterMethod:
    """A merge of task vectors: here of B_i A_i, or of the A_i and of the B_i."""

    def kernel(layer: Layer, options: Any, config: MergeAdaptersConfig) -> Factors:
        if config.space == "factors":
            return on_factors(method, layer, options, config)
        if hasattr(options, "weights"):
            options = _weighted(options, layer.weights(options))
        merged = method.kernel(_group(layer.name, [one.product() for one in layer.factors], layer, config), options)
        return factorised(merged, layer.rank(config))

    return AdapterMethod(kernel)


def on_factors(method: MergeMethod, layer: Layer, options: Any, config: MergeAdaptersConfig) -> Factors:
    """Each factor gets the root of a weight, A its sign, B the scale; one adapter alone stays itself.

    Raises :class:`IncompatibleModels` where ranks differ, :class:`ConfigError` for a method without weights.
    """
    if not hasattr(options, "weights"):
        raise ConfigError(f"space=factors: {config.method} has no weights to share between A and B. Set space=product.")
    check_ranks(layer)
    weights = layer.weights(options)
    roots = [math.sqrt(abs(weight)) for weight in weights]
    signed = [math.copysign(root, weight) for root, weight in zip(roots, weights, strict=True)]
    downs = _group(f"{layer.name}/A", [one.down for one in layer.factors], layer, config)
    ups = _group(f"{layer.name}/B", [one.up for one in layer.factors], layer, config)
    return Factors(
        method.kernel(downs, options.model_copy(update={"weights": signed, "scale": 1.0})),
        method.kernel(ups, _weighted(options, roots)),
    )


def check_ranks(layer: Layer) -> None:
    if len(ranks := sorted({one.rank for one in layer.factors})) > 1:
        raise IncompatibleModels(f"{layer.name} has adapters of the ranks {ranks}: their factors have no sum. Set space=product.")


def factorised(matrix: Tensor, rank: int) -> Factors:
    """The best approximation of the rank, its singular values shared by both factors."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    total = float(s.square().sum())
    share = float(s[:rank].square().sum()) / total if total else 1.0
    return Factors(root[:, None] * v[:rank], u[:, :rank] * root, share)


def truncated(factors: Factors, rank: int) -> Factors:
    """As :func:`factorised` of their product, by decompositions of the size of their rank."""
    left, up = torch.linalg.qr(factors.up)
    right, down = torch.linalg.qr(factors.down.T)
    core = factorised(up @ down.T, rank)
    return Factors(core.down @ right.T, left @ core.up, core.kept)


def _group(name: str, tensors: Sequence[Tensor], layer: Layer, config: MergeAdaptersConfig) -> Group:
    return Group(name, torch.zeros_like(tensors[0]), tuple(tensors), layer.keys, tensors[0].dtype, config.seed)


def _weighted(options: Any, weights: list[float]) -> Any:
    return options.model_copy(update={"weights": weights})


LORA_LINEAR = AdapterMethod(linear)
LORA_CAT = AdapterMethod(concatenate)
LORA_TIES = task_vector_method(TIES)
LORA_DARE_LINEAR = task_vector_method(DARE_LINEAR)
LORA_DARE_TIES = task_vector_method(DARE_TIES)
LORA_MAGNITUDE_PRUNE = task_vector_method(MergeMethod(magnitude_prune, base="required"))
LORA_MAGMAX = task_vector_method(MAGMAX)
KNOTS = AdapterMethod(knots)
LORAHUB = AdapterMethod(composed, searched=True)
