"""The second moment C = E[k k^T] of a site's keys: what a solver must leave alone. In float64, factorised once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lfm_tasks.editing.method import Editing
from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels
from lfm_tasks.models.decoder import Site
from lfm_tasks.models.statistics import Statistics

KIND = "key_moments"
FEW, TOO_FEW = 10, 2
"""Tokens for each dimension of a key: below the first C is smoothed more, below the second it is singular."""
RIDGE, RIDGE_OF_FEW = 1e-4, 1e-2
"""Added to the diagonal, in mean eigenvalues of C."""


class KeyMoments:
    """``mean`` [d_k, d_k], float64, of ``tokens`` keys. ``C`` is the mean and a ridge."""

    def __init__(self, mean: Tensor, tokens: int | None = None) -> None:
        self.mean, self.tokens = mean, tokens
        self.few = tokens is not None and tokens < FEW * len(mean)
        share = RIDGE_OF_FEW if self.few else RIDGE
        self.ridge = share * float(mean.trace()) / len(mean)

    @cached_property
    def factor(self) -> Tensor:
        """Cholesky factor of C, lower."""
        return torch.linalg.cholesky(self.mean + self.ridge * torch.eye(len(self.mean), dtype=self.mean.dtype))

    @cached_property
    def condition(self) -> float:
        """Of C."""
        values = torch.linalg.eigvalsh(self.mean) + self.ridge
        return float(values[-1] / values[0]) if values[0] > 0 else float("inf")

    @cached_property
    def eigenbasis(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the mean, ascending, and eigenvectors as columns."""
        return torch.linalg.eigh(self.mean)

    def whiten(self, keys: Tensor) -> Tensor:
        """C^-1 K for K [d_k, n]."""
        return torch.cholesky_solve(keys, self.factor)

    def null_space(self, energy: float) -> Tensor:
        """[d_k, r]: the most eigenvectors of the smallest eigenvalues whose sum is at most the share ``energy`` of the trace."""
        values, vectors = self.eigenbasis
        share = values.clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
        return vectors[:, : int((share <= energy).sum())]


class Isotropic(KeyMoments):
    """C = I: every direction counts the same."""

    def __init__(self, width: int) -> None:
        super().__init__(torch.eye(width, dtype=torch.float64))

    def whiten(self, keys: Tensor) -> Tensor:
        return keys


def moments_of(editing: Editing, site: Site) -> KeyMoments:
    """Raises :class:`ConfigError` without statistics, :class:`IncompatibleModels` for those of another kind or other layers,
    :class:`DataError` for those of fewer tokens than twice the width of a key."""
    found = editing.statistics
    if found is None:
        raise ConfigError(
            "The method needs second moments of keys. Run the step 'statistics' with method=key_moments on the base model and give the "
            "result as the input 'statistics'."
        )
    if found.kind != KIND:
        raise IncompatibleModels(f"{found.reference} is of the kind {found.kind}, not {KIND}. Run the step 'statistics' with that method.")
    if site.name not in found.tensors:
        layers = sorted(entry["layer"] for entry in found.tensors.values())
        raise IncompatibleModels(
            f"{found.reference} knows the keys of the layers {', '.join(map(str, layers))}, not of layer {site.layer}. Choose one, "
            f"or gather statistics with layers=[{site.layer}]."
        )
    tokens, width = found.tensors[site.name]["tokens"], site.matrix.shape[1]
    if tokens < TOO_FEW * width:
        raise DataError(
            f"{found.reference} was gathered from {tokens:,} tokens; keys of layer {site.layer} have {width:,} dimensions, which asks for "
            f"{TOO_FEW * width:,} tokens at the least, better {FEW * width:,}. Gather statistics from more rows."
        )
    return _opened(_Site(found, site.name))


@dataclass(frozen=True)
class _Site:
    """Equal by the artifact's place, whose bytes never change."""

    statistics: Statistics = field(compare=False)
    name: str
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.statistics.path)


@lru_cache(maxsize=64)
def _opened(site: _Site) -> KeyMoments:
    """A second round factorises nothing."""
    tokens = site.statistics.tensors[site.name]["tokens"]
    return KeyMoments(site.statistics.read(site.name).double() / tokens, tokens)
