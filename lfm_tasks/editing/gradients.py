"""What a matrix is given and what the loss asks of what it gives: the two factors of its gradient, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lfm_tasks.editing.likelihood import FactBatch, target_nll
from lfm_tasks.models.decoder import Site


@dataclass(frozen=True)
class Factors:
    """The gradient of the loss by W [out, in] is grads^T keys."""

    keys: Tensor
    """[tokens, in]"""
    grads: Tensor
    """[tokens, out]: of the loss by the matrix's output."""
    outputs: Tensor
    """[tokens, out]"""

    def of(self, kept: Tensor) -> Factors:
        """The tokens where ``kept`` [tokens] is True."""
        return Factors(self.keys[kept], self.grads[kept], self.outputs[kept])

    def to(self, device: torch.device | str) -> Factors:
        return Factors(self.keys.to(device), self.grads.to(device), self.outputs.to(device))

    def parts(self, tokens: int = 1024) -> list[Factors]:
        """At most so many tokens each, in order; at least one part."""
        split = (rows.split(tokens) for rows in (self.keys, self.grads, self.outputs))
        return [Factors(*part) for part in zip(*split, strict=True)]


def gradient_factors(model: PreTrainedModel, batch: FactBatch, sites: Sequence[Site]) -> dict[str, Factors]:
    """By the site's name, of the sum of the facts' mean losses: all tokens in row-major order, padding too (its gradient is zero).

    One forward and one backward pass, which ends at the deepest site. A zero is added to each output, and its gradient is the output's.
    """
    keys: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def see(name: str, _: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
        keys[name], outputs[name] = given[0].detach().flatten(0, 1), output.detach().flatten(0, 1)
        probes[name] = torch.zeros_like(output, requires_grad=True)
        return output + probes[name]

    with ExitStack() as hooks:
        for site in sites:
            hooks.enter_context(site.module.register_forward_hook(partial(see, site.name)))
        loss = target_nll(model, batch).sum()
    grads = torch.autograd.grad(loss, list(probes.values()))
    return {name: Factors(keys[name], grad.flatten(0, 1), outputs[name]) for name, grad in zip(probes, grads, strict=True)}


@dataclass(frozen=True)
class Moments:
    """Running mean and variance of rows, in float64. One batch at a time gives what all rows at once do (Chan et al. 1979)."""

    count: Tensor
    mean: Tensor
    """[width]"""
    squares: Tensor
    """[width]: sum of squared distances from the mean."""

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        wide = rows.double()
        mean = wide.mean(0) if len(wide) else torch.zeros(wide.shape[1], dtype=torch.float64)
        return cls(torch.tensor(float(len(wide)), dtype=torch.float64), mean, (wide - mean).square().sum(0))

    @classmethod
    def read(cls, state: Mapping[str, Tensor], name: str) -> Moments | None:
        if f"{name}.count" not in state:
            return None
        return cls(state[f"{name}.count"], state[f"{name}.mean"], state[f"{name}.squares"])

    def state(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.count": self.count, f"{name}.mean": self.mean, f"{name}.squares": self.squares}

    def with_(self, other: Moments | None) -> Moments:
        if other is None or not other.count:
            return self
        if not self.count:
            return other
        total, apart = self.count + other.count, other.mean - self.mean
        squares = self.squares + other.squares + apart.square() * self.count * other.count / total
        return Moments(total, self.mean + apart * other.count / total, squares)

    def z_score(self, rows: Tensor) -> Tensor:
        """(rows - mean) / deviation, in the dtype of ``rows``; a column that never varies is 0.

        Of a single row ever seen, which has no deviation: the row in its own root mean square.
        """
        if self.count == 1:
            return rows / rows.square().mean().sqrt().clamp(min=1e-30)
        deviation = (self.squares / (self.count - 1)).sqrt()
        return ((rows.double() - self.mean) / (deviation + 1e-12)).to(rows.dtype)
