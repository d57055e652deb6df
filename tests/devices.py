"""A machine that seems to have an accelerator: tensors know whether they are there or on the host, and may not meet.

They are all on the CPU. What is on the accelerator has the device ``cpu:0``, what is on the host ``cpu``: code that asks a tensor, or the
model, for its device and makes others there is right on any device; code that makes them wherever they are made by default is not.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

HOST, THERE = torch.device("cpu"), torch.device("cpu", 0)
MADE = {getattr(torch, name) for name in ("zeros", "ones", "full", "arange", "tensor", "rand", "randn", "eye", "empty", "as_tensor")}
CROSSING = {Tensor.copy_, Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put, Tensor.to, Tensor.cpu, Tensor.type_as}
CROSSING |= {torch._has_compatible_shallow_copy_type}
"""May be given tensors of both, an index or a source."""


class Mixed(AssertionError):
    """Tensors of the host and of the accelerator in one operation."""


class Accelerator(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.place = WeakTensorKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self.place[tensor] = THERE

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        places = {self.place.get(one) for one in given if one.dim() or self.place.get(one) == THERE} - {None}
        if func == Tensor.data.__set__:
            self.place[args[0]] = self.place.get(args[1], HOST)
            return func(*args, **kwargs)
        if func == Tensor.device.__get__:
            return self.place.get(args[0], HOST)
        if len(places) > 1 and func not in CROSSING:
            raise Mixed(f"{getattr(func, '__name__', func)} of {[(tuple(one.shape), str(self.place.get(one))) for one in given]}")
        made = func(*args, **kwargs)
        place = self._placed(func, args, kwargs, given)
        if func in (Tensor.to, Tensor.cpu) and made is args[0] and place != self.place.get(made):
            made = made.clone()
        if place is not None:
            for one in tree_leaves(made):
                if isinstance(one, Tensor):
                    self.place[one] = place
        return made

    def _placed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor]) -> torch.device | None:
        asked = [one for one in (*args[1:], kwargs.get("device")) if isinstance(one, torch.device | str)]
        if func is Tensor.cpu:
            return HOST
        if func in MADE or (func is Tensor.to and asked):
            return torch.device(asked[0]) if asked else HOST
        if func is Tensor.to and len(given) > 1:
            return self.place.get(given[1])
        if "device" in kwargs and kwargs["device"] is not None:
            return torch.device(kwargs["device"])
        return next((self.place[one] for one in given if one in self.place), None)


@contextmanager
def accelerated(model: nn.Module):
    """Inside the block ``model`` is on the accelerator, and nothing else is."""
    with Accelerator(model) as mode:
        yield mode
