"""A merged model in memory, remade in place after every step, whose gradient comes back to what is learnt by contraction.

Every task's loss goes backward to the merged tensors as leaves, and adds up there. There is no graph of the merge: the
gradient by a coefficient is the inner product of that sum with the coefficient's task vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lfm_tasks.reuse.blocks import BLOCK
from lfm_tasks.reuse.learning import Learning
from lfm_tasks.reuse.methods.task_vectors import Sparsify


class Merged:
    """theta_0 + m ∘ sum_t lambda_t tau_t for each tensor, in float32. Without masks m is 1.

    Task vectors are differences of the mapped files, taken anew in blocks: the memory is that of the merged tensors and of
    their gradients, for any number of models.
    """

    def __init__(self, learning: Learning, sparsify: Mapping[str, Sparsify] | None = None) -> None:
        """``sparsify``: by name, what is done to a block of the task vectors [models, elements]; it may write to them."""
        self.base, self.models, self.names = learning.base, learning.models, learning.merged
        self.sparsify = sparsify or {}
        self.leaves = {name: learning.base.read(name).float().clone().requires_grad_() for name in self.names}
        self.given = {**learning.donated(), **self.leaves}
        """What the tasks are asked with: the merged tensors, and the donor's in the place of those that are kept."""

    @torch.no_grad()
    def remake(self, coefficients: Tensor, masks: Mapping[str, Tensor] | None = None) -> None:
        """``coefficients`` [tensors, models]. Gradients are forgotten."""
        for name, row in zip(self.names, coefficients, strict=True):
            leaf, mask = self.leaves[name], masks[name].view(-1) if masks else None
            leaf.grad, merged = None, leaf.view(-1)
            for span, base, deltas in self._blocks(name):
                moved = row @ deltas
                torch.add(base, moved if mask is None else moved.mul_(mask[span]), out=merged[span])

    @torch.no_grad()
    def by_coefficients(self, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """Gradient [tensors, models] of the losses that went backward since the model was made: <g, m ∘ tau_t>."""
        found = torch.zeros(len(self.names), len(self.models), dtype=torch.float64)
        for place, name in enumerate(self.names):
            if (gradient := self._gradient(name)) is not None:
                mask = masks[name].view(-1) if masks else None
                for span, _, deltas in self._blocks(name):
                    found[place] += deltas @ (gradient[span] if mask is None else gradient[span] * mask[span])
        return found.float()

    @torch.no_grad()
    def by_masks(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Gradient by each tensor's mask, g ∘ sum_t lambda_t tau_t. It takes the place of the leaf's own gradient."""
        found = {}
        for name, row in zip(self.names, coefficients, strict=True):
            gradient = self._gradient(name)
            if gradient is None:
                gradient = torch.zeros_like(self.leaves[name]).view(-1)
            for span, _, deltas in self._blocks(name):
                gradient[span] *= row @ deltas
            found[name], self.leaves[name].grad = gradient.view_as(self.leaves[name]), None
        return found

    def _gradient(self, name: str) -> Tensor | None:
        """Flat; None where no task depends on the tensor."""
        gradient = self.leaves[name].grad
        return None if gradient is None else gradient.contiguous().view(-1)

    def _blocks(self, name: str) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Stretches of the base [elements] and of the task vectors [models, elements], in float32."""
        base, *models = (one.read(name).reshape(-1) for one in (self.base, *self.models))
        sparsify, room = self.sparsify.get(name), torch.empty(len(models), min(BLOCK, base.numel()))
        for start in range(0, base.numel(), BLOCK):
            span = slice(start, start + BLOCK)
            yield span, *deltas_of(base[span], [model[span] for model in models], room, sparsify, span)


def deltas_of(base: Tensor, models: Sequence[Tensor], room: Tensor, sparsify: Sparsify | None, span: slice) -> tuple[Tensor, Tensor]:
    """The base and the task vectors of a block in float32, the latter in ``room``."""
    base, deltas = base.float(), room[:, : base.numel()]
    for delta, model in zip(deltas, models, strict=True):
        torch.sub(model.float(), base, out=delta)
    return base, deltas if sparsify is None else sparsify(span, deltas)
