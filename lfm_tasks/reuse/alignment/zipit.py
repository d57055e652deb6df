"""ZipIt (Stoica et al. 2024): merge the features of two models that go together most, within one model too."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from lfm_tasks.errors import InvalidInput
from lfm_tasks.reuse.alignment.config import ZipitConfig
from lfm_tasks.reuse.alignment.pair import Aligned, AlignMethod, Pair
from lfm_tasks.reuse.alignment.specification import Specification

CONTRACTING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (*CONTRACTING, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm)


def zip_features(correlation: Tensor, reduction: float = 0.5, alpha: float = 0.3, beta: float = 0.125) -> tuple[Tensor, Tensor]:
    """``(merge [kept, features], unmerge [features, kept])`` from correlations of the features of two models side by side.

    Greedy: the most correlated pair is merged, its correlations with others are the smaller of the two, times ``alpha`` (> 0);
    ``beta`` is the most merges within one model, as a share of what it loses. ``merge`` averages, ``unmerge`` copies.
    Where the reference's ``match_tensors_zipit`` differs: it adds 1e-5 to the counts that averages are divided by, always allows
    one merge within a model, and what was merged with a unit of a model whose budget is spent merges with that model no more.
    """
    features = len(correlation)
    removed = features - int(features * (1 - reduction) + 1e-4)
    scores = correlation.double().clone()
    scores.fill_diagonal_(-torch.inf)
    origin = torch.arange(features) // (features // 2)
    budget = torch.full((2,), int(removed // 2 * beta + 1e-4))
    member, alive = torch.eye(features, dtype=torch.float64), torch.ones(features, dtype=torch.bool)
    spent = (origin[:, None] == origin) & (budget[origin] <= 0)
    allowed = scores.masked_fill(spent, -torch.inf)
    for _ in range(removed):
        one, other = sorted(divmod(int(allowed.argmax()), features))
        merged = torch.minimum(scores[one], scores[other]) * alpha
        for table, row in ((scores, merged), (allowed, merged.masked_fill(spent[one], -torch.inf))):
            table[one], table[:, one] = row, row
            table[other], table[:, other] = -torch.inf, -torch.inf
        member[:, one] += member[:, other]
        alive[other] = False
        if origin[one] == origin[other]:
            budget[origin[one]] -= 1
            spent = (origin[:, None] == origin) & (budget[origin] <= 0)
            allowed = scores.masked_fill(spent, -torch.inf)
    unmerge = member[:, alive]
    return averaging(unmerge), unmerge


def averaging(unmerge: Tensor) -> Tensor:
    """``merge`` of an ``unmerge``."""
    return (unmerge / unmerge.sum(0)).mT.contiguous()


def zippable(specification: Specification, network: nn.Module) -> list[str]:
    """Groups that stand alone on their axes, and in Linear, Conv and normalisation layers only: all of an MLP or CNN, and the
    hidden units of a transformer's MLPs. Raises :class:`InvalidInput` where there are none.
    """
    groups = set(specification.groups)
    for name, axes in specification.axes.items():
        for factors in axes:
            here = {group for group, _ in factors if group is not None}
            if len(here) > 1 or not isinstance(_module(network, name), LAYERS):
                groups -= here
    if not groups:
        raise InvalidInput(
            "ZipIt merges units between Linear and Conv layers, and this model has none that stand alone. "
            "Use weight_matching, activation_matching or transport."
        )
    return [group for group in specification.groups if group in groups]


def incoming_dims(specification: Specification, network: nn.Module, name: str) -> range:
    """Unfolded dimensions of a tensor by which features come in."""
    if not (isinstance(_module(network, name), CONTRACTING) and name.endswith("weight")):
        return range(0)
    outgoing, coming = specification.axes[name][:2]
    return range(len(outgoing), len(outgoing) + len(coming))


def _module(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name.rpartition(".")[0])


def zip_tensor(
    specification: Specification,
    name: str,
    pair: tuple[Tensor, Tensor],
    zips: Mapping[str, tuple[Tensor, Tensor]],
    incoming: Container[int],
) -> Tensor:
    """Sum over the models of ``merge W unmerge``; where no merge stands before it, their average."""
    total, averaged = 0.0, False
    for model, tensor in enumerate(pair):
        unfolded = specification.unfold(name, tensor.double())
        for place, (group, size) in enumerate(specification.dims(name)):
            if group in zips:
                merge, unmerge = zips[group]
                span = slice(model * size, (model + 1) * size)
                matrix = unmerge[span].mT if place in incoming else merge[:, span]
                averaged |= place not in incoming
                unfolded = torch.tensordot(matrix, unfolded, dims=([1], [place])).movedim(0, place)
        total = total + unfolded
    return (total if averaged else total / 2).reshape(pair[0].shape).to(pair[1].dtype)


def zipit(pair: Pair, options: ZipitConfig) -> Aligned:
    """The merged model itself, not one to be merged: units within a model are merged too."""
    groups = zippable(pair.specification, pair.network)
    correlations = pair.correlations(joint=True)
    shown = {factors[0][0]: module for module, (_, factors) in pair.specification.features.items() if len(factors) == 1}

    def unmerge(group: str) -> Tensor:
        return zip_features(correlations[shown[group]], 0.5, options.alpha, options.beta)[1].contiguous()

    found = {group: pair.decide(partial(unmerge, group)) for group in groups}
    zips = {group: (averaging(one), one) for group, one in found.items()}
    across = sum(_across(unmerge) for _, unmerge in zips.values())

    def tensor(name: str) -> Tensor:
        tensors = (pair.reference[name], pair.model[name])
        return zip_tensor(pair.specification, name, tensors, zips, incoming_dims(pair.specification, pair.network, name))

    return Aligned(tensor, across, {"zipped_across": across / sum(len(merge) for merge, _ in zips.values())})


def _across(unmerge: Tensor) -> int:
    """Features of the result that both models have a part in."""
    first, second = (half.sum(0) > 0 for half in unmerge.chunk(2))
    return int((first & second).sum())


ZIPIT = AlignMethod(zipit, data="required", exact=False)


MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm)
