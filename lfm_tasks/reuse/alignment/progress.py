"""How far an alignment has come: rows that both models have seen, then decisions about groups of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lfm_tasks.models.resuming import below, kept, poll, report, under
from lfm_tasks.reuse.alignment.activations import Moments
from lfm_tasks.step import StepContext


class Progress:
    """What a stopped attempt of the same job has seen and decided need not be seen or decided again."""

    def __init__(self, context: StepContext) -> None:
        self.context, before = context, kept(context)
        self.seen = int(before.get("seen", 0))
        self.moments = {name: Moments.of(state) for name, state in _each(below(before, "moments")).items()}
        """Of the rows seen, by the module."""
        self.known = below(before, "decided")
        self.decided: list[Tensor] = []
        if before:
            context.log(f"Resumed: {self.seen} rows were seen and {len(self.known)} decisions made before.")

    def look(self, moments: Mapping[str, Moments], rows: int, total: int) -> None:
        """``rows`` more are in the ``moments``. Raises :class:`AttemptKilled` after a checkpoint once a stop was asked for."""
        self.moments, self.seen = dict(moments), self.seen + rows
        report(self.context, self.seen, total, self.state, what=f"of {total} rows")

    def decide(self, compute: Callable[[], Tensor]) -> Tensor:
        """The next of a fixed sequence of decisions; one that is known is not computed. Raises as :meth:`look` does."""
        place = f"{len(self.decided):08d}"
        self.decided.append(self.known[place] if place in self.known else compute())
        if place not in self.known:
            poll(self.context, self.seen + len(self.decided), self.state, what="rows and decisions")
        return self.decided[-1]

    def state(self) -> dict[str, Tensor]:
        moments = {f"{name}/{part}": tensor for name, one in self.moments.items() for part, tensor in one.state().items()}
        decided = {f"{place:08d}": one.clone() for place, one in enumerate(self.decided)}
        return {"seen": torch.tensor(self.seen)} | under(moments, "moments") | under(decided, "decided")


def _each(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By the module what is named ``<module>/<part>``."""
    return {name: below(state, name) for name in dict.fromkeys(key.rpartition("/")[0] for key in state)}
