"""Soft permutations: entropic optimal transport between units (Singh and Jaggi 2020, Model Fusion via Optimal Transport)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lfm_tasks.reuse.alignment.activation_matching import activation_similarity
from lfm_tasks.reuse.alignment.config import TransportConfig
from lfm_tasks.reuse.alignment.matching import Similarity, assign, match
from lfm_tasks.reuse.alignment.pair import Aligned, AlignMethod, Decide, Pair, at_once, moved_units
from lfm_tasks.reuse.alignment.specification import Permutations, Specification
from lfm_tasks.reuse.alignment.weight_matching import weight_similarity

Plans = dict[str, Tensor]
"""For each group ``[place, the model's unit]``, rows that sum to 1: an aligned unit is that average of the model's units."""

WARM, CHECKED = 20, 10
"""Iterations at each larger regularization on the way; iterations between two looks at the margins."""


def sinkhorn(similarity: Tensor, regularization: float, iterations: int = 1000, tolerance: float = 1e-6) -> Tensor:
    """The plan between uniform masses for the cost ``max - similarity``, scaled so that rows and columns sum to 1.

    ``regularization`` is a share of the costs' range; 0 gives the exact plan, which is a permutation (Birkhoff). In log domain and
    float64, by way of larger regularizations, each half the one before. With products of weights as similarity, the plan is that
    of their squared distances: what they differ by is constant along rows or columns.
    """
    if regularization == 0:
        return torch.eye(len(similarity), dtype=torch.float64)[assign(similarity)]
    values = similarity.double()
    scores = (values - values.max()) / (values.max() - values.min()).clamp(min=1e-300)
    rows, columns = scores.new_zeros(len(scores), 1), scores.new_zeros(1, len(scores))
    strength = max(1.0, regularization)
    while True:
        last = strength == regularization
        for step in range(iterations if last else WARM):
            rows = -strength * torch.logsumexp((scores + columns) / strength, 1, keepdim=True)
            columns = -strength * torch.logsumexp((scores + rows) / strength, 0, keepdim=True)
            if step % CHECKED == 0 and (_plan(scores, rows, columns, strength).sum(1) - 1).abs().max() < tolerance:
                break
        if last:
            plan = _plan(scores, rows, columns, strength)
            return plan / plan.sum(1, keepdim=True)
        strength = max(strength / 2, regularization)


def _plan(scores: Tensor, rows: Tensor, columns: Tensor, strength: float) -> Tensor:
    return ((scores + rows + columns) / strength).exp()


def soften(similarity: Similarity, permutations: Permutations, regularization: float, decide: Decide = at_once) -> Plans:
    """The plan of each group, with all others at their permutations."""

    def plan(group: str) -> Tensor:
        return sinkhorn(similarity.between(group, permutations), regularization)

    return {group: decide(partial(plan, group)) for group in permutations}


def transport(specification: Specification, name: str, tensor: Tensor, plans: Plans) -> Tensor:
    """The tensor with every unit replaced by the average that the plans say, on the way in and on the way out."""
    unfolded = specification.unfold(name, tensor.double())
    for place, (group, _) in enumerate(specification.dims(name)):
        if group in plans:
            unfolded = torch.tensordot(plans[group], unfolded, dims=([1], [place])).movedim(0, place)
    return unfolded.reshape(tensor.shape).to(tensor.dtype)


def fuse_by_transport(pair: Pair, options: TransportConfig) -> Aligned:
    """Softens the optimum of weight (or activation) matching, where the paper solves layer after layer from incoming weights alone."""
    similarity = weight_similarity(pair) if options.ground == "weights" else activation_similarity(pair)
    found = match(similarity, pair.specification.groups, pair.seed, pair.decide)
    plans = soften(similarity, found, options.regularization, pair.decide)
    sharpness = sum(float(plan.max(1).values.sum()) for plan in plans.values()) / sum(map(len, plans.values()))
    return Aligned(
        lambda name: transport(pair.specification, name, pair.model[name], plans), moved_units(found), {"plan_sharpness": sharpness}
    )


TRANSPORT = AlignMethod(fuse_by_transport, data="optional", exact=False)
