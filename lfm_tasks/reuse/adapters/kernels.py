"""Merges of one layer's LoRA factors: any merge of task vectors on B A or on A and B apart; side by side; KnOTS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.reuse.adapters.config import KnotsConfig, LoraLinearConfig, LoraTrimConfig
from lfm_tasks.reuse.adapters.factors import Factors, factorised, shared_directions, side_by_side, truncated
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.magnitudes import largest
from lfm_tasks.reuse.methods.config import TaskArithmeticConfig
from lfm_tasks.reuse.methods.dare import DARE_LINEAR, DARE_TIES
from lfm_tasks.reuse.methods.task_arithmetic import TASK_ARITHMETIC
from lfm_tasks.reuse.methods.task_vectors import merge_task_vectors
from lfm_tasks.reuse.methods.ties import TIES, keep_from, kept


@dataclass(frozen=True)
class Layer:
    """What each adapter that changes a layer has for it. Borrowed: a kernel never writes to it."""

    name: str
    factors: tuple[Factors, ...]
    keys: tuple[str, ...]
    """Content hash of each adapter."""
    seed: int = 0

    def rank(self, wanted: int) -> int:
        return wanted or max(one.rank for one in self.factors)

    def group(self, part: str, tensors: Sequence[Tensor]) -> Group:
        """The tensors as task vectors."""
        return Group(self.name + part, torch.zeros_like(tensors[0]), tuple(tensors), self.keys, tensors[0].dtype, self.seed)


@dataclass(frozen=True)
class AdapterMethod:
    kernel: Callable[[Layer, Any], Factors]
    """``(layer, options) -> merged``; the options hold a weight for each of the layer's adapters."""
    searched: bool = False
    """The weights are found on a data set first (LoraHub)."""


def linear(layer: Layer, options: LoraLinearConfig) -> Factors:
    """scale * sum_i w_i B_i A_i, to its best approximation of the rank; no matrix of the layer's size is decomposed."""
    if options.space == "factors":
        return on_factors(TASK_ARITHMETIC, layer, options)
    return truncated(concatenate(layer, options), layer.rank(options.rank))


def concatenate(layer: Layer, options: TaskArithmeticConfig) -> Factors:
    """The same sum exactly."""
    weighted = zip(layer.factors, options.weights, strict=True)
    return side_by_side([Factors(one.down, one.up * (weight * options.scale)) for one, weight in weighted])


def composed(layer: Layer, options: LoraLinearConfig) -> Factors:
    """As :func:`linear`; on factors (sum_i w_i B_i)(sum_i w_i A_i), every factor with the whole weight (Huang et al. 2023)."""
    if options.space == "product":
        return linear(layer, options)
    check_ranks(layer)
    weighted = list(zip(layer.factors, options.weights, strict=True))
    merged = Factors(sum(one.down * weight for one, weight in weighted), sum(one.up * weight for one, weight in weighted))
    return truncated(merged, layer.rank(options.rank))


def knots(layer: Layer, options: KnotsConfig) -> Factors:
    """[B_1 A_1, B_2 A_2, …] = U S [V_1, V_2, …]: U times what TIES makes of the S V_i (Stoica et al. 2025).

    The trim is of each layer; the authors trim over all layers at once.
    """
    basis, parts = shared_directions(list(layer.factors))
    return truncated(Factors(TIES.kernel(layer.group("", parts), options), basis), layer.rank(options.rank))


def magnitude_prune(group: Group, options: LoraTrimConfig) -> Tensor:
    """scale * sum_i w_i of the largest elements of tau_i."""
    least = [largest(group.base, model, kept(options.density, model.numel()))[0] for model in group.models]
    return merge_task_vectors(group, options.weights, options.scale, [keep_from(one) for one in least])


def task_vector_method(method: MergeMethod) -> AdapterMethod:
    """A merge of task vectors: here of B_i A_i, or of the A_i and of the B_i."""

    def kernel(layer: Layer, options: Any) -> Factors:
        if options.space == "factors":
            return on_factors(method, layer, options)
        merged = method.kernel(layer.group("", [one.product() for one in layer.factors]), options)
        return factorised(merged, layer.rank(options.rank))

    return AdapterMethod(kernel)


def on_factors(method: MergeMethod, layer: Layer, options: Any) -> Factors:
    """Each factor gets the root of a weight, A its sign, B the scale; one adapter alone stays itself."""
    check_ranks(layer)
    roots = [math.sqrt(abs(weight)) for weight in options.weights]
    signed = [math.copysign(root, weight) for root, weight in zip(roots, options.weights, strict=True)]
    downs, ups = layer.group("/A", [one.down for one in layer.factors]), layer.group("/B", [one.up for one in layer.factors])
    down = method.kernel(downs, options.model_copy(update={"weights": signed, "scale": 1.0}))
    return truncated(Factors(down, method.kernel(ups, options.model_copy(update={"weights": roots}))), layer.rank(options.rank))


def check_ranks(layer: Layer) -> None:
    """Raise :class:`IncompatibleModels` unless all factors have one shape."""
    if len(ranks := sorted({one.rank for one in layer.factors})) > 1:
        raise IncompatibleModels(f"{layer.name} has adapters of the ranks {ranks}: their factors have no sum. Set space=product.")


LORA_LINEAR = AdapterMethod(linear)
LORA_CAT = AdapterMethod(concatenate)
LORA_TIES = task_vector_method(TIES)
LORA_DARE_LINEAR = task_vector_method(DARE_LINEAR)
LORA_DARE_TIES = task_vector_method(DARE_TIES)
LORA_MAGNITUDE_PRUNE = task_vector_method(MergeMethod(magnitude_prune, base="required"))
KNOTS = AdapterMethod(knots)
LORAHUB = AdapterMethod(composed, searched=True)
