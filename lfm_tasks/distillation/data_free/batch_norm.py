"""How far a batch is from what batch norm remembers of the teacher's data (DeepInversion, eq. 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lfm_tasks.distillation.data_free.cards import WITHOUT_BATCH_NORM
from lfm_tasks.errors import IncompatibleModels


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers that keep running statistics, in order.

    Raises :class:`IncompatibleModels` where there are none, naming what works.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    known = [module for module in layers if module.running_mean is not None]
    if not known:
        why = "keeps no running statistics (track_running_stats=False)" if layers else "is not there"
        raise IncompatibleModels(
            f"The teacher {type(model).__name__} cannot be matched by batch norm: it {why}. Take one of the methods "
            f"{', '.join(WITHOUT_BATCH_NORM)}, or set the option batch_norm to 0."
        )
    return known


class Matching:
    """``loss`` of the last pass: the sum over the layers of |mean - running mean| + |variance - running variance|, L2 norms.

    Mean and population variance are those of a layer's *input*, over batch and positions. With ``momentum`` they are averaged with
    ``past``, the statistics of the passes before, which carry no gradient.
    """

    def __init__(self, layers: Sequence[_BatchNorm], momentum: float = 0.0, past: Sequence[Tensor] = ()) -> None:
        self.layers, self.momentum, self.past = layers, momentum, list(past)
        self.seen: dict[int, Tensor] = {}

    def see(self, place: int, module: _BatchNorm, given: tuple[Any, ...]) -> None:
        (x,) = given
        axes = [axis for axis in range(x.dim()) if axis != 1]
        now = torch.stack([x.mean(axes), x.var(axes, unbiased=False)])
        self.seen[place] = self.momentum * self.past[place] + (1 - self.momentum) * now if self.past else now

    def loss(self) -> Tensor:
        total = torch.zeros((), device=self.layers[0].running_mean.device)
        for place, layer in enumerate(self.layers):
            wanted = torch.stack([layer.running_mean, layer.running_var])
            total = total + torch.linalg.vector_norm(self.seen[place] - wanted, dim=1).sum()
        return total

    def statistics(self) -> list[Tensor]:
        """[2, channels] of each layer, without gradient: what the next pass may take as ``past``."""
        return [self.seen[place].detach() for place in range(len(self.layers))]


@contextmanager
def matching(model: nn.Module, momentum: float = 0.0, past: Sequence[Tensor] = ()) -> Iterator[Matching]:
    """Inside the block every pass of ``model``, which is in evaluation mode there, is measured. All hooks are gone when it is left."""
    found = Matching(batch_norms(model), momentum, past)
    training = model.training
    model.eval()
    try:
        with ExitStack() as hooks:
            for place, layer in enumerate(found.layers):
                hooks.enter_context(layer.register_forward_pre_hook(partial(found.see, place)))
            yield found
    finally:
        model.train(training)
