"""Merge checkpoints one tensor at a time: read, compute and write on two threads; what is done survives a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lfm_tasks.errors import AttemptKilled, InvalidInput
from lfm_tasks.models.resuming import STATE
from lfm_tasks.reuse.blocks import check_finite
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.learning import Learnt
from lfm_tasks.reuse.plan import Planned
from lfm_tasks.reuse.statistics import ModelStatistics
from lfm_tasks.reuse.writing import Writer
from lfm_tasks.step import StepContext

THREADS = 2
FINISHED = "finished.safetensors"


class Merge:
    """One merge: ``run`` writes the planned tensors below ``directory``."""

    def __init__(
        self,
        base: Checkpoint | None,
        models: Sequence[Checkpoint],
        planned: Sequence[Planned],
        method: MergeMethod,
        options: Any,
        seed: int,
        context: StepContext,
        checkpoint_every: int = 0,
        learnt: Learnt | None = None,
        statistics: Sequence[ModelStatistics] = (),
        options_of: Callable[[str, float], Any] | None = None,
    ) -> None:
        """``options_of``: those of one tensor, by its name and depth; without it ``options`` are every tensor's."""
        self.base = base if method.base != "ignored" else None
        self.models, self.method, self.options, self.seed = models, method, options, seed
        self.options_of = options_of or (lambda name, depth: options)
        self.donor = base or models[0]
        self.planned = sorted(planned, key=lambda one: (one.file, self.donor.tensors[one.name].place))
        self.context, self.checkpoint_every, self.learnt = context, checkpoint_every, learnt or Learnt({})
        self.statistics = statistics
        self.surveyed: tuple[Tensor, ...] = ()
        self.finished: set[str] = set()

    def run(self, directory: Path) -> None:
        """Raises :class:`AttemptKilled` after a checkpoint when a stop was asked for, :class:`InvalidInput` for NaN or infinity."""
        writer = Writer(directory, self.planned)
        try:
            with _one_thread_each():
                self._resume(writer)
                self._survey_all()
                self._merge(directory, writer)
        finally:
            writer.close()

    def in_memory(self) -> dict[str, Tensor]:
        """The planned tensors as ``run`` would write them."""
        with _one_thread_each():
            self._survey_all()
            with closing(self._each(self.planned, self._result)) as done:
                return {one.name: tensor for one, tensor in done}

    @property
    def sources(self) -> list[Checkpoint]:
        """What is read."""
        return [self.base, *self.models] if self.base else list(self.models)

    def _survey_all(self) -> None:
        for survey in self.method.surveys(self.options):
            self.surveyed += (self._survey(survey),)

    def _survey(self, survey: Callable[[Group, Any], Tensor]) -> Tensor:
        """Summed by name: the order, and so the sum's last bit, does not depend on files."""
        groups = sorted((one for one in self.planned if one.merged), key=lambda one: one.name)
        total: Tensor | None = None
        with closing(self._each(groups, lambda one: survey(self._group(one), self.options), ordered=True)) as parts:
            for _, part in parts:
                total = part if total is None else total + part
                if self.context.stop_requested():
                    raise AttemptKilled("Stopped on request while the models were surveyed; nothing was merged yet.")
        return total

    def _merge(self, directory: Path, writer: Writer) -> None:
        left = [one for one in self.planned if one.name not in self.finished]
        total = len(self.planned)

        def work(one: Planned) -> None:
            writer.write(one.name, self._result(one))

        try:
            with closing(self._each(left, work)) as done:
                for one, _ in done:
                    self.finished.add(one.name)
                    if self.checkpoint_every and len(self.finished) % self.checkpoint_every == 0:
                        self._save(directory)
                    self.context.report(self.learnt.steps + len(self.finished), self.learnt.steps + total)
        except AttemptKilled as killed:
            self._save(directory)
            raise AttemptKilled(f"{killed} {len(self.finished)} of {total} tensors are kept; the same job goes on from there.") from None

    def _result(self, one: Planned) -> Tensor:
        if not one.merged:
            return self.donor.read(one.name).to(one.dtype)
        try:
            merged = self.method.kernel(self._group(one), self.options_of(one.name, one.depth))
            check_finite(merged, f"{one.name} overflows {one.dtype} when merged. Choose smaller weights, or dtype=float32.")
        except InvalidInput:
            for source in self.sources:
                source.verify()
                message = f"{one.name} of {source.name} holds NaN or infinity. Merge models whose weights are finite."
                check_finite(source.read(one.name), message)
            raise
        return merged

    def _group(self, one: Planned) -> Group:
        statistics = [found for found in self.statistics if one.name in found]
        return Group(
            name=one.name,
            base=self.base.read(one.name) if self.base else None,
            models=tuple(model.read(one.name) for model in self.models),
            keys=tuple(model.key for model in self.models),
            dtype=one.dtype,
            seed=self.seed,
            depth=one.depth,
            learnt=self.learnt.tensors.get(one.name),
            statistics=tuple(found.read(one.name) for found in statistics) or None,
            input_axis=statistics[0].input_axis(one.name) if statistics else 1,
            surveyed=self.surveyed,
        )

    def _each(self, items: Sequence[Planned], work: Callable[[Planned], Any], ordered: bool = False) -> Iterator[tuple[Planned, Any]]:
        """Do the work on ``THREADS`` threads; results as they end, or in the items' order.

        One item ahead of each thread is expected, so that ranges are read while others are merged: with ranges, memory holds
        ``2 * THREADS`` tensors of each model.
        """
        pending: dict[Future[Any], Planned] = {}
        queue = iter(items)
        with ThreadPoolExecutor(THREADS, "merge", torch.set_num_threads, (1,)) as pool:
            try:
                while True:
                    while len(pending) < 2 * THREADS and (item := next(queue, None)) is not None:
                        for source in self.sources if item.merged else [self.donor]:
                            source.expect(item.name)
                        pending[pool.submit(work, item)] = item
                    if not pending:
                        return
                    done = {next(iter(pending))} if ordered else wait(pending, return_when=FIRST_COMPLETED).done
                    for future in [future for future in pending if future in done]:
                        yield pending.pop(future), future.result()
            finally:
                for future in pending:
                    future.cancel()

    def _save(self, directory: Path) -> None:
        """A checkpoint of what is written; the files' pages are the source, so it costs no memory. It holds what was learnt too."""
        if not self.finished:
            return
        opened = {file: safe_open(directory / file, framework="pt") for file in {one.file for one in self.planned}}
        tensors = {one.name: opened[one.file].get_tensor(one.name) for one in self.planned if one.name in self.finished}

        def write(path: Path) -> None:
            save_file(tensors, path / FINISHED)
            if self.learnt.state:
                save_file(dict(self.learnt.state), path / STATE)

        self.context.checkpoints.save(self.learnt.steps + len(self.finished), write)

    def _resume(self, writer: Writer) -> None:
        latest = self.context.checkpoints.latest()
        if latest is None or not (latest / FINISHED).is_file():
            return
        with safe_open(latest / FINISHED, framework="pt") as kept:
            for name in kept.keys():  # noqa: SIM118 (safe_open is no mapping)
                writer.write(name, kept.get_tensor(name))
                self.finished.add(name)
        self.context.log(f"Resumed: {len(self.finished)} of {len(self.planned)} tensors were merged before.")


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Tensors are the unit of parallel work; within one, a sum must not depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
