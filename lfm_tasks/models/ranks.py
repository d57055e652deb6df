"""Several processes that compute one step together, each with the whole model and a share of every batch (data parallelism)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its process group; alone where there is none."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        joined = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size()) if joined else cls()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
        """(index, item) of the items that are this process's: every ``world``-th."""
        return ((index, items[index]) for index in range(self.rank, len(items), self.world))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in one message; a process that had no batch counts as zero."""
        if self.world == 1:
            return
        parameters = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.sum(torch.cat([gradient.reshape(-1).float() for gradient in gradients]))
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def tell(self, value: Any) -> Any:
        """Rank 0's ``value``, in every process."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]
