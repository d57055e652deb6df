"""A task as merge methods see it: rows, and the model that was tuned on them as a function of the weights being merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.forward import Batch, batches, forward_with, stream
from lfm_tasks.models.opening import check_labels, check_names, open_for
from lfm_tasks.models.prepared import Rows, read_rows
from lfm_tasks.reuse.checkpoint import Checkpoint, Part
from lfm_tasks.step import Input


@dataclass(frozen=True)
class Task:
    """Rows that one of the models was made for, and that model, whose head reads them."""

    name: str
    module: nn.Module
    """In float32, without dropout; its parameters ask for no gradient."""
    prefix: str
    """Of the merged tensors in the module's names: ``bert.`` where bare backbones are merged."""
    rows: Rows
    pad_token_id: int

    def logits(self, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Logits [batch, classes] of the model with ``tensors`` in the place of its own; differentiable by them."""
        return forward_with(self.module, {self.prefix + name: tensor for name, tensor in tensors.items()}, batch)

    def stream(self, batch_size: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Batches of the rows without end, in an order keyed by ``seed`` and the rows' samples."""
        return stream(self.rows, batch_size, self.pad_token_id, seed, self.rows.sample_id[0])

    def batches(self, batch_size: int, most: int) -> Iterator[dict[str, Tensor]]:
        """The first ``most`` rows, once. They are in the order of their samples' hashes, so they are a random draw."""
        return batches(self.rows, batch_size, self.pad_token_id, most)


def open_task(model: Input, checkpoint: Checkpoint, dataset: Input, split: str) -> Task:
    """``checkpoint`` is the part of ``model`` that is merged. What it holds in memory is not read again.

    Raises :class:`IncompatibleModels` for rows of other classes or another tokenizer, and where the opened model has other names
    than its files.
    """
    rows, prefix = read_rows(dataset.path, split), getattr(checkpoint, "prefix", "")
    module = open_for(model, rows, checkpoint.held)
    check_names(model.reference, [prefix + name for name in checkpoint.tensors], module)
    return Task(model.reference, module.requires_grad_(False), prefix, rows, module.config.pad_token_id or 0)


def one_for_each(who: str, models: Sequence[Input], datasets: Sequence[Input]) -> list[Input]:
    """A data set for each model; one may be that of all. Raises :class:`ConfigError` for another number."""
    if len(datasets) not in (1, len(models)):
        raise ConfigError(
            f"{who} looks at the data of each model; {len(datasets)} of the input 'datasets' were given for {len(models)} models. "
            "Give one for each, in their order, or one for all."
        )
    return list(datasets) if len(datasets) == len(models) else list(datasets) * len(models)


def open_one_task(who: str, models: Sequence[Input], checkpoints: Sequence[Checkpoint], datasets: Sequence[Input], split: str) -> Task:
    """The task that all of ``models`` were tuned on, opened with the first.

    Raises :class:`ConfigError` unless there is one data set, :class:`IncompatibleModels` for models of other classes, and for
    bare backbones, whose heads would not be merged.
    """
    if len(datasets) != 1:
        raise ConfigError(
            f"{who} is for models that were tuned on one task; {len(datasets)} of the input 'datasets' were given. Give that task's one."
        )
    if any(isinstance(one, Part) for one in checkpoints):
        raise IncompatibleModels(f"{who} merges the heads too, and the base has none. Leave the input 'base' out.")
    task = open_task(models[0], checkpoints[0], datasets[0], split)
    if task.rows.task == "classification":
        for model in models[1:]:
            check_labels(model, task.rows.labels)
    return task
