"""Correlations of the units of two models on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lfm_tasks.reuse.alignment.specification import Specification

Run = Callable[[nn.Module, Mapping[str, Tensor]], Any]


class Moments:
    """Running means and products of two sets of units seen at the same places, accumulated in float64."""

    def __init__(self) -> None:
        self.count, self.sums, self.squares, self.products = 0, [0.0, 0.0], [0.0, 0.0], 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """``[places, units]`` each."""
        self.count += len(x)
        for side, seen in enumerate((x, y)):
            self.sums[side] = self.sums[side] + seen.double().sum(0)
            self.squares[side] = self.squares[side] + seen.double().square().sum(0)
        self.products = self.products + (x.double().mT @ y.double())

    def state(self) -> dict[str, Tensor]:
        sides = {f"{kind}{side}": one for kind, pair in (("sum", self.sums), ("square", self.squares)) for side, one in enumerate(pair)}
        return {"count": torch.tensor(self.count), "products": self.products, **sides}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Moments:
        """What :meth:`state` gave."""
        made = cls()
        made.count, made.products = int(state["count"]), state["products"]
        made.sums, made.squares = ([state[f"{kind}{side}"] for side in (0, 1)] for kind in ("sum", "square"))
        return made

    def correlation(self) -> Tensor:
        """``[x's unit, y's unit]``: covariance divided by the outer product of the deviations; 0 for a unit that never changes."""
        means = [total / self.count for total in self.sums]
        variances = [square / self.count - mean.square() for square, mean in zip(self.squares, means, strict=True)]
        x, y = (
            torch.where(variance > 1e-12 * (1e-12 + square / self.count), variance.clamp(min=0).rsqrt(), 0.0)
            for variance, square in zip(variances, self.squares, strict=True)
        )
        return (((self.products / self.count) - torch.outer(*means)) * torch.outer(x, y)).float()


def correlate(
    specification: Specification,
    models: tuple[nn.Module, nn.Module],
    run: Run,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    joint: bool = False,
    before: Mapping[str, Moments] | None = None,
    after: Callable[[Mapping[str, Moments], int], None] = lambda moments, rows: None,
) -> dict[str, Tensor]:
    """Of each module of ``specification.features``, how its units go together: ``[first model's, second model's]``.

    ``joint`` sets the units of both models side by side, and gives ``[both models', both models']``. Padding is left out.
    ``before`` are the moments of rows that were seen already; ``after`` each batch is told all moments and the batch's rows.
    """
    moments = dict(before or {module: Moments() for module in specification.features})
    for batch in batches:
        mask = batch.get("attention_mask")
        seen = []
        for model in models:
            with torch.no_grad(), _outputs_of(model, list(moments)) as outputs:
                run(model, batch)
            seen.append({module: _places(tensor, specification.features[module][0], mask) for module, tensor in outputs.items()})
        for module, kept in moments.items():
            x, y = seen[0][module], seen[1][module]
            both = torch.cat([x, y], 1) if joint else None
            kept.add(*((both, both) if joint else (x, y)))
        after(moments, len(next(iter(batch.values()))))
    return {module: kept.correlation() for module, kept in moments.items()}


@contextmanager
def _outputs_of(model: nn.Module, modules: list[str]):
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: outputs.__setitem__(name, output)

    with ExitStack() as hooks:
        for name in modules:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(keep(name)))
        yield outputs


def _places(output: Tensor, dimension: int, mask: Tensor | None) -> Tensor:
    """``[places, units]`` of an output ``[…, units, …]``; of tokens those that the mask keeps."""
    moved = output.movedim(dimension, -1)
    if mask is not None and moved.dim() == 3 and moved.shape[:2] == mask.shape:
        return moved[mask.bool()]
    return moved.reshape(-1, moved.shape[-1])
