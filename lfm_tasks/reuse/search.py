"""The step *search_merge*: the options of a merge that do best on validation rows, and the merge by them.

The models are read once, by ranges where they are far away, and stay in memory as they are stored, beside two float32 copies of one
model: a candidate, and what is made of it. Each candidate is made by the method's own kernel and scored without being written; only
the best is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import Config
from lfm_tasks.errors import InvalidInput
from lfm_tasks.memory import available_bytes, peak_rss_bytes
from lfm_tasks.models.opening import head_modules
from lfm_tasks.models.saving import save_companions
from lfm_tasks.reuse.checkpoint import Checkpoint, Loaded, Part
from lfm_tasks.reuse.merge import open_checkpoints
from lfm_tasks.reuse.plan import Planned, plan
from lfm_tasks.reuse.scoring import Score, Scorer
from lfm_tasks.reuse.search_config import SearchMergeConfig
from lfm_tasks.reuse.search_report import write_report
from lfm_tasks.reuse.strategies import generations
from lfm_tasks.reuse.streaming import Merge
from lfm_tasks.reuse.tasks import Task, one_for_each, open_one_task, open_task
from lfm_tasks.reuse.trials import Trials
from lfm_tasks.reuse.writing import Writer
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of


def run(config: SearchMergeConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    space = open_space(config, inputs, context)
    trials = Trials(config, context, len(space.models) + 1 + config.trials)
    for model in space.models:
        trials.add("model", model.name, {}, lambda model=model: space.score(space.own(model)))
    trials.add("default", "", {}, lambda: space.score(space.merged(config.method_config())))
    proposals, scores = generations(config, len(space.models)), None
    while (candidates := _next(proposals, scores)) is not None:
        scores = [
            trials.add("candidate", "", options, lambda options=options: space.score(space.merged(config.tried(options)))).rank(config)[0]
            for options in candidates
        ]
    best = max(trials.of("candidate"), key=lambda trial: trial.rank(config))
    context.log(f"Best of {len(trials.of('candidate'))}: {best.label}.")
    space.write(config.tried(best.options), context.workdir / "model")
    shown = write_report(config, trials, best, [(task.task.name, task.rows) for task in space.tasks], context.workdir / "trials")
    metrics = shown.metrics | {
        "bytes_read": float(held_bytes([*space.models, *([space.base] if space.base else [])])),
        "bytes_written": float(sum(one.size for one in space.planned)),
        "cpu_seconds": time.process_time() - began,
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    outputs = {"model": Output("model", context.workdir / "model"), "trials": Output("report", context.workdir / "trials")}
    return Outcome(outputs=outputs, metrics=metrics, summary=shown.summary, figures=shown.figures)


def _next(proposals: Any, scores: list[float] | None) -> list[dict[str, Any]] | None:
    try:
        return proposals.send(scores)
    except StopIteration:
        return None


@dataclass(frozen=True)
class Space:
    """The models in memory, every merge of them, and the tasks that judge one."""

    config: SearchMergeConfig
    base: Checkpoint | None
    models: Sequence[Checkpoint]
    planned: Sequence[Planned]
    tasks: Sequence[Scorer]
    context: StepContext

    def own(self, model: Checkpoint) -> dict[str, Tensor]:
        """The model itself, in the precision of the result."""
        return {one.name: model.read(one.name).to(one.dtype) for one in self.planned if one.merged}

    def merged(self, options: Config) -> dict[str, Tensor]:
        method = METHODS[self.config.method].function
        return Merge(self.base, self.models, self.planned, method, options, self.config.seed, self.context).in_memory()

    def score(self, tensors: Mapping[str, Tensor]) -> list[Score]:
        """On each task; a head that is not merged is the task's own, as the step *evaluate* has it."""
        merged = {one.name for one in self.planned if one.merged}
        found = []
        for scorer in self.tasks:
            heads, prefix = set(head_modules(scorer.task.module)), scorer.task.prefix
            taken = {name: one for name, one in tensors.items() if name in merged or (prefix + name).split(".")[0] not in heads}
            found.append(scorer(taken))
        return found

    def write(self, options: Config, directory: Path) -> None:
        writer = Writer(directory, self.planned)
        try:
            for name, tensor in self.merged(options).items():
                writer.write(name, tensor)
        finally:
            writer.close()
        dtype = None if self.config.dtype == "auto" else self.config.dtype
        save_companions((self.base or self.models[0]).directory, directory, dtype=dtype)


def open_space(config: SearchMergeConfig, inputs: Mapping[str, Input], context: StepContext) -> Space:
    """Raises what a merge of the models raises, and :class:`InvalidInput` where they do not fit into memory; nothing is read then."""
    sources, datasets = all_of(inputs, "models"), all_of(inputs, "datasets")
    one_for_each("A search", sources, datasets)
    base, models = open_checkpoints(inputs)
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    planned = plan(base, models, METHODS[config.method].function, config.keep, dtype, context.workdir)
    read = [*([base] if base else []), *models]
    check_memory(planned, read)
    base, models = load(base) if base else None, [load(model) for model in models]
    scorers = []
    for task in open_tasks(sources, models, datasets):
        let_go(task, [one.name for one in planned if one.merged])
        scorers.append(Scorer(task, config.score_rows))
    return Space(config, base, models, planned, scorers, context)


def load(model: Checkpoint) -> Checkpoint:
    """The same in memory; where it is a part, with the rest of its model, as which a task is opened."""
    return Part(Loaded(model.whole), model.prefix, model.names) if isinstance(model, Part) else Loaded(model)


def check_memory(planned: Sequence[Planned], read: Sequence[Checkpoint]) -> None:
    held, candidate = held_bytes(read), 8 * sum(torch.Size(one.shape).numel() for one in planned)
    if held + candidate > (left := available_bytes()):
        raise InvalidInput(
            f"A search holds its {len(read)} models in memory, {held:,} bytes, and {candidate:,} for a candidate; {left:,} are available. "
            "Search over fewer models, give the step more memory, or try options one by one by the step merge."
        )


def held_bytes(read: Sequence[Checkpoint]) -> int:
    wholes = [one.whole if isinstance(one, Part) else one for one in read]
    return sum(info.dtype.itemsize * torch.Size(info.shape).numel() for one in wholes for info in one.tensors.values())


def open_tasks(sources: Sequence[Input], models: Sequence[Checkpoint], datasets: Sequence[Input]) -> Iterator[Task]:
    """A task for each model; or one, where all are whole models of one data set."""
    if len(datasets) == 1 and not any(isinstance(model, Part) for model in models):
        yield open_one_task("A search by one data set", sources, models, datasets, "validation")
        return
    for one in zip(sources, models, one_for_each("A search", sources, datasets), strict=True):
        yield open_task(*one, "validation")


def let_go(task: Task, names: Sequence[str]) -> None:
    """Free the module's own tensors of these names, in whose place every call puts others."""
    own = {
        name: tensor for part in (task.module.named_parameters, task.module.named_buffers) for name, tensor in part(remove_duplicate=False)
    }
    for name in names:
        own[task.prefix + name].data = torch.empty(0)
