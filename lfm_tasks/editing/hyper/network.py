"""The hyper-network of MEND and MALMEN: what a matrix was given, and what the loss asks of its answer, to what shall be written.

Mitchell et al. 2022 (arXiv 2110.11309), section 3. One network for all matrices of one shape, with a scale and a shift for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lfm_tasks.seeds import derive_seed

FLOOR = 1e-3
"""Least deviation of a column, in mean deviations: one that hardly varied says nothing."""


@dataclass(frozen=True)
class Matrix:
    """A weight W [out, in] that is edited."""

    name: str
    """Of the weight, in the model's state dict."""
    out: int
    inner: int


class Residual(nn.Module):
    """h -> s * (U V h + b) + o for the matrix at ``place``, of which the inner ones keep what is positive; U = 0 at first."""

    def __init__(self, width: int, rank: int, places: int, last: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, width, generator=generator) / width**0.5)
        self.up, self.bias = nn.Parameter(torch.zeros(width, rank)), nn.Parameter(torch.zeros(width))
        self.scale, self.shift = nn.Parameter(torch.ones(places, width)), nn.Parameter(torch.zeros(places, width))
        self.last = last

    def forward(self, rows: Tensor, place: int) -> Tensor:
        """``clamp`` where others have ReLU: at 0, where all begins, that has no gradient and nothing would ever be learnt."""
        found = self.scale[place] * (rows @ self.down.T @ self.up.T + self.bias) + self.shift[place]
        return found if self.last else found.clamp(min=0)


class Editor(nn.Module):
    """For the matrices of :attr:`matrices`, in their order.

    Columns are normalised by what they were on the training facts, the network's answer is scaled back and *added* to the factors: so an
    editor that has learnt nothing hands on the gradient's own factors, exactly.
    """

    def __init__(self, matrices: Sequence[Matrix], rank: int, blocks: int, seed: int) -> None:
        super().__init__()
        self.matrices = tuple(matrices)
        shapes = list(dict.fromkeys((one.out, one.inner) for one in self.matrices))
        self.network = [shapes.index((one.out, one.inner)) for one in self.matrices]
        self.places = [self.network[:at].count(network) for at, network in enumerate(self.network)]
        self.networks = nn.ModuleList()
        for at, (out, inner) in enumerate(shapes):
            generator = torch.Generator().manual_seed(derive_seed(seed, "editor", at))
            count = self.network.count(at)
            self.networks.append(
                nn.ModuleList(Residual(out + inner, rank, count, block == blocks - 1, generator) for block in range(blocks))
            )
        self.log_step, self.log_ridge = (nn.Parameter(torch.zeros(len(self.matrices))) for _ in range(2))
        self.register_buffer("unit", torch.ones(len(self.matrices)))
        self.register_buffer("length", torch.ones(len(self.matrices)))
        for at, one in enumerate(self.matrices):
            self.register_buffer(f"mean_{at}", torch.zeros(one.inner + one.out))
            self.register_buffer(f"deviation_{at}", torch.ones(one.inner + one.out))

    def measured(self, at: int, mean: Tensor, deviation: Tensor, unit: float, length: float) -> None:
        """Fix how the factors of matrix ``at`` are normalised: ``mean`` and ``deviation`` [in + out] of keys and gradients side by side,
        the ``unit`` of its steps, and the mean squared ``length`` of its keys."""
        inner = self.matrices[at].inner
        floor = torch.cat([FLOOR * part.mean().expand(len(part)) for part in (deviation[:inner], deviation[inner:])])
        getattr(self, f"mean_{at}").copy_(mean)
        getattr(self, f"deviation_{at}").copy_(torch.maximum(deviation, floor).clamp(min=1e-30))
        self.unit[at], self.length[at] = unit, length

    def forward(self, at: int, keys: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
        """``keys`` [tokens, in] and ``grads`` [tokens, out] of matrix ``at``, none of them zero, to what is written in their place."""
        given, deviation = torch.cat([keys, grads], 1), getattr(self, f"deviation_{at}")
        start = hidden = (given - getattr(self, f"mean_{at}")) / deviation
        for block in self.networks[self.network[at]]:
            hidden = hidden + block(hidden, self.places[at])
        return (given + deviation * (hidden - start)).split([keys.shape[1], grads.shape[1]], 1)

    def step(self, at: int) -> Tensor:
        """Learnt size of a step of matrix ``at``: of a gradient, 1 in its own unit is ``unit``."""
        return self.unit[at] * self.log_step[at].exp()

    def ridge(self, at: int) -> Tensor:
        """Learnt ridge of matrix ``at``, from the mean squared length of its keys on."""
        return self.length[at] * self.log_ridge[at].exp()


def opened(described: Sequence[Mapping[str, object]], rank: int, blocks: int, tensors: Mapping[str, Tensor]) -> Editor:
    """The editor that :func:`described_matrices` and ``state_dict()`` tell of."""
    editor = Editor([Matrix(**one) for one in described], rank, blocks, 0)
    editor.load_state_dict(dict(tensors))
    return editor.requires_grad_(False)


def described_matrices(editor: Editor) -> list[dict[str, object]]:
    return [vars(one).copy() for one in editor.matrices]
