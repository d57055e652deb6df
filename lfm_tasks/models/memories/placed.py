"""Tensors of a memory where the model is, wherever it is moved to after it was opened."""

from __future__ import annotations

import torch
from torch import Tensor


class Placed:
    """Copied once to each device that they are asked for on, one after the other."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        if any(one.device != device for one in self._tensors):
            self._tensors = tuple(one.to(device) for one in self._tensors)
        return self._tensors
