"""What one module of a model is given and gives, token by token."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Seen:
    given: Tensor
    """[rows, length, in]"""
    output: Tensor
    """[rows, length, out]"""


class _Stop(Exception):
    pass


@torch.no_grad()
def inputs_of(model: PreTrainedModel, module: nn.Module, input_ids: Tensor) -> Seen:
    """Of one pass over ``input_ids`` [rows, length], padded on the right, which ends at ``module``.

    transformers' own ``output_hidden_states`` leaves hooks on the model; this leaves none.
    """
    seen: list[Seen] = []

    def see(_: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        seen.append(Seen(given[0], output))
        raise _Stop

    with module.register_forward_hook(see), suppress(_Stop):
        model(input_ids, use_cache=False)
    return seen[0]
