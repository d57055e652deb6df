"""What a teacher said at some places, whole or in part, and how far a student is from it there.

Each form holds log-probabilities at one temperature; ``form[rows]`` are some of its places. Kernels are those of
:mod:`lfm_tasks.distillation.divergences`, as ``(log_q, log_p, targets) -> [n]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from lfm_tasks.distillation.divergences import NEVER, entropy

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


class Signal(Protocol):
    form: str

    def __getitem__(self, rows: slice) -> Signal: ...

    def distance(self, log_q: Tensor, targets: Tensor, kernel: Kernel) -> Tensor:
        """[n] of a student's ``log_q`` [n, classes] at the same temperature."""

    def entropy(self) -> Tensor:
        """[n], in nats."""

    def log_target(self, targets: Tensor) -> Tensor:
        """[n]: the teacher's log-probability of ``targets``; an upper bound where it was not kept."""


@dataclass(frozen=True)
class Whole:
    """``log_p`` [n, classes]; a student may have more columns, which its tokenizer has no token for: the teacher gives them 0."""

    log_p: Tensor
    form = "whole"

    def __getitem__(self, rows: slice) -> Whole:
        return Whole(self.log_p[rows])

    def distance(self, log_q: Tensor, targets: Tensor, kernel: Kernel) -> Tensor:
        more = log_q.shape[-1] - self.log_p.shape[-1]
        return kernel(log_q, pad(self.log_p, (0, more), value=NEVER) if more else self.log_p, targets)

    def entropy(self) -> Tensor:
        return entropy(self.log_p)

    def log_target(self, targets: Tensor) -> Tensor:
        return self.log_p.gather(-1, targets[:, None])[:, 0]


@dataclass(frozen=True)
class TopK:
    """``log_p`` [n, k] of the classes ``ids`` [n, k], and one outcome for all others: a divergence of k + 1 outcomes, no larger
    than that of all classes (the data-processing inequality) and 0 where the student says the same."""

    ids: Tensor
    log_p: Tensor
    form = "top_k"

    def __getitem__(self, rows: slice) -> TopK:
        return TopK(self.ids[rows], self.log_p[rows])

    @property
    def log_tail(self) -> Tensor:
        """[n, 1]: log of the mass that is not in the top k."""
        return torch.log1p(-self.log_p.exp().sum(-1, keepdim=True).clamp_max(1)).clamp_min(NEVER)

    def outcomes(self) -> Tensor:
        return torch.cat([self.log_p, self.log_tail], -1)

    def distance(self, log_q: Tensor, targets: Tensor, kernel: Kernel) -> Tensor:
        others = log_q.scatter(-1, self.ids, -torch.inf).logsumexp(-1, keepdim=True)
        return kernel(torch.cat([log_q.gather(-1, self.ids), others], -1), self.outcomes(), targets)

    def entropy(self) -> Tensor:
        return entropy(self.outcomes())

    def log_target(self, targets: Tensor) -> Tensor:
        found = self.ids == targets[:, None]
        return torch.where(found.any(-1), (self.log_p * found).sum(-1), self.log_tail[:, 0])


@dataclass(frozen=True)
class Sampled:
    """``weights`` [n, m] of the classes ``ids`` [n, m] such that sum of w f(id) is without bias the mean of f under the teacher, and
    the teacher's ``entropies`` [n]: KL(P || Q) in expectation. One estimate may be negative."""

    ids: Tensor
    weights: Tensor
    entropies: Tensor
    form = "sampled"

    def __getitem__(self, rows: slice) -> Sampled:
        return Sampled(self.ids[rows], self.weights[rows], self.entropies[rows])

    def distance(self, log_q: Tensor, targets: Tensor, kernel: Kernel) -> Tensor:
        return -(self.weights * log_q.gather(-1, self.ids)).sum(-1) - self.entropies

    def entropy(self) -> Tensor:
        return self.entropies

    def log_target(self, targets: Tensor) -> Tensor:
        raise NotImplementedError("Samples do not say how likely the teacher finds a given class.")
