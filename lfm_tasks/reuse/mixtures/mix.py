"""The step *mix*: several models kept beside their base, and something that decides for each input which of them answer.

Where the base is a bare backbone and the models have heads on it, the backbones are mixed. Evaluate the mixture with the head of
one of the models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from lfm_tasks.catalogue import METHODS
from lfm_tasks.errors import ConfigError
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.opening import check_names
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.merge import open_checkpoints
from lfm_tasks.reuse.mixtures.config import MixConfig
from lfm_tasks.reuse.mixtures.method import Mixing
from lfm_tasks.reuse.plan import plan
from lfm_tasks.reuse.tasks import Task, open_task
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of


def run(config: MixConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began, method = time.process_time(), METHODS[config.method].function
    base, models = open_checkpoints(inputs)
    planned = plan(base, models, method, config.keep)
    tasks = open_tasks(config, inputs, models)
    mixing = Mixing(config, base, models, planned, tasks, context)
    check_names(base.name, base.tensors, mixing.skeleton)
    context.log(f"{config.method}: {len(models)} models of {len(planned)} tensors.")
    directory = context.workdir / "model"
    measured = method.build(mixing, directory)
    parameters = float(sum(torch.Size(one.shape).numel() for one in planned))
    metrics = {
        **measured,
        "parameters": parameters + measured["extra_parameters"],
        "extra_parameter_ratio": measured["extra_parameters"] / parameters,
        "cpu_seconds": time.process_time() - began,
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    summary = {"method": config.method, "models": [model.name for model in models], "base": base.name}
    return Outcome(outputs={"model": Output("model", directory)}, metrics=metrics, summary=summary)


def open_tasks(config: MixConfig, inputs: Mapping[str, Input], models: Sequence[Checkpoint]) -> list[Task]:
    """A task for each model, in their order. Raises :class:`ConfigError` where there are too few, or where the method takes none."""
    datasets, data = all_of(inputs, "datasets"), METHODS[config.method].function.data
    if data == "none" and datasets:
        raise ConfigError(f"The method {config.method} needs no data. Leave the input 'datasets' out.")
    if data == "none" or (data == "optional" and not datasets):
        return []
    if len(datasets) != len(models):
        raise ConfigError(
            f"The method {config.method} learns from the data of each model; {len(datasets)} of the input 'datasets' were given for "
            f"{len(models)} models. Give one for each, in their order."
        )
    return [open_task(*one, config.split) for one in zip(all_of(inputs, "models"), models, datasets, strict=True)]
