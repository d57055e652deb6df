"""The step *merge*: several models to one, tensor by tensor; some methods learn from data first how, some use statistics.

Where the base is a bare backbone and the models have heads on it, the backbones are merged and the result is one. Evaluate it
with the head of one of the models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lfm_tasks.catalogue import METHODS
from lfm_tasks.errors import ConfigError
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.mixtures.files import refuse_mixture
from lfm_tasks.models.safety import check_model_directory
from lfm_tasks.models.saving import save_companions
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.group import MergeMethod
from lfm_tasks.reuse.learning import Learning, Learnt
from lfm_tasks.reuse.plan import plan
from lfm_tasks.reuse.statistics import open_statistics
from lfm_tasks.reuse.streaming import Merge
from lfm_tasks.reuse.vocabulary import align, write_union
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of

if TYPE_CHECKING:
    from lfm_tasks.reuse.tasks import Task


def run(config: MergeConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    method, options = METHODS[config.method].function, config.method_config()
    _check_combination(config, method, options)
    base, models = open_checkpoints(inputs)
    if config.vocabulary != "same":
        base, models = _aligned(base, models, config.vocabulary == "union")
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    planned = plan(base, models, method, config.keep, dtype, context.workdir, [one.tensors for one in config.filters])
    statistics = open_statistics(config.method, method.statistics, all_of(inputs, "statistics"), models, planned)
    tasks = open_tasks(config, inputs, models)
    learnt = learn(method, Learning(base, models, planned, tasks, config.seed, context, config.checkpoint_every), options)
    kept = config.checkpoint_every
    merge = Merge(base, models, planned, method, options, config.seed, context, kept, learnt, statistics, config.options_of)
    context.log(f"{config.method}: {len(models)} models, {len(planned)} tensors, {sum(one.size for one in planned):,} bytes.")
    directory = context.workdir / "model"
    merge.run(directory)
    save_companions(merge.donor.directory, directory, dtype=None if config.dtype == "auto" else config.dtype)
    write_union(merge.donor, directory)
    return Outcome(
        outputs={"model": Output("model", directory)},
        metrics=_metrics(merge, began) | dict(learnt.metrics),
        summary=_summary(config, merge) | dict(learnt.summary),
        figures=learnt.figures,
    )


def _check_combination(config: MergeConfig, method: MergeMethod, options: Any) -> None:
    if config.filters and (method.learn or method.surveys(options)):
        raise ConfigError(f"filters: {config.method} with these options looks at all tensors together. Leave filters out.")
    if config.vocabulary != "same" and (method.learn or method.statistics):
        raise ConfigError(f"vocabulary: {config.method} learns from data that were prepared for one vocabulary. Set vocabulary=same.")


def _aligned(base: Checkpoint | None, models: list[Checkpoint], union: bool) -> tuple[Checkpoint | None, list[Checkpoint]]:
    aligned = align(models if base is None else [base, *models], union)
    return (None, aligned) if base is None else (aligned[0], aligned[1:])


def open_checkpoints(inputs: Mapping[str, Input]) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """The base, and of each model the part that the base is; whole models without one."""
    base = open_checkpoint(inputs["base"]) if "base" in inputs else None
    models = [open_checkpoint(model) for model in all_of(inputs, "models")]
    return base, models if base is None else [model.inside(base) for model in models]


def open_checkpoint(source: Input) -> Checkpoint:
    """Raises :class:`~lfm_tasks.errors.UnsafeModel` for a directory that holds more than data."""
    check_model_directory(source.path, source.remote)
    refuse_mixture(source.path, source.reference)
    return Checkpoint(source.reference, source.sha256, source.path, source.remote)


def open_tasks(config: MergeConfig, inputs: Mapping[str, Input], models: Sequence[Checkpoint]) -> list[Task]:
    """A task for each model where the method learns from data, or the one that all are of; one data set may be that of all models.

    Raises :class:`ConfigError` for too few data sets, and for any where the method takes none.
    """
    method, sources, datasets = METHODS[config.method].function, all_of(inputs, "models"), all_of(inputs, "datasets")
    if method.learn is None:
        if datasets:
            raise ConfigError(f"The method {config.method} needs no data. Leave the input 'datasets' out.")
        return []
    from lfm_tasks.reuse.tasks import one_for_each, open_one_task, open_task

    split = method.split if config.split == "auto" else config.split
    if method.one_task:
        return [open_one_task(f"The method {config.method}", sources, models, datasets, split)]
    datasets = one_for_each(f"The method {config.method}", sources, datasets)
    return [open_task(*one, split) for one in zip(sources, models, datasets, strict=True)]


def learn(method: MergeMethod, learning: Learning, options: Any) -> Learnt:
    learnt = method.learn(learning, options) if method.learn else {}
    return learnt if isinstance(learnt, Learnt) else Learnt(learnt)


def _metrics(merge: Merge, began: float) -> dict[str, float]:
    read = sum(one.dtype.itemsize * torch.Size(one.shape).numel() for model in merge.sources for one in model.tensors.values())
    return {
        "tensors": float(len(merge.planned)),
        "parameters": float(sum(torch.Size(one.shape).numel() for one in merge.planned)),
        "bytes_read": float(read),
        "bytes_written": float(sum(one.size for one in merge.planned)),
        "cpu_seconds": time.process_time() - began,
        "peak_memory_bytes": float(peak_rss_bytes()),
    }


def _summary(config: MergeConfig, merge: Merge) -> dict[str, Any]:
    return {
        "method": config.method,
        "models": [model.name for model in merge.models],
        "base": merge.base.name if merge.base else None,
        "layout_of": merge.donor.name,
        "kept": sorted(one.name for one in merge.planned if not one.merged),
        "dtypes": sorted({str(one.dtype).removeprefix("torch.") for one in merge.planned}),
    }
