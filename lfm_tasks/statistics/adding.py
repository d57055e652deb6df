"""The step *add_statistics*: sums over parts of the rows to sums over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.statistics import TENSORS, Statistics, read_statistics, write_statistics
from lfm_tasks.statistics.config import AddStatisticsConfig
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of

SUMS = ("key_moments",)
"""Kinds that are sums; the others are means."""


def run(config: AddStatisticsConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    parts = [read_statistics(source) for source in all_of(inputs, "statistics")]
    sums, description = added(parts)
    directory = context.workdir / "statistics"
    write_statistics(directory, sums, description)
    counts = {name: description[name] for name in ("rows", "tokens")}
    metrics = {name: float(count) for name, count in counts.items()} | {"bytes_written": float((directory / TENSORS).stat().st_size)}
    summary = {"kind": description["kind"], "parts": len(parts), **counts}
    return Outcome(outputs={"statistics": Output("statistics", directory)}, metrics=metrics, summary=summary)


def added(parts: Sequence[Statistics]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of the parts' rows together, for :func:`~lfm_tasks.models.statistics.write_statistics`.

    Raises :class:`ConfigError` for means, :class:`IncompatibleModels` for parts of other models, tokenizers or options.
    """
    first, *rest = parts
    if first.kind not in SUMS:
        raise ConfigError(f"{first.reference} is of the kind {first.kind}, a mean. Sums can be added: {', '.join(SUMS)}.")
    for other in rest:
        for name in ("kind", "model", "tokenizer_sha256", "options"):
            if other.description[name] != first.description[name]:
                raise IncompatibleModels(
                    f"{other.reference} has {name} {other.description[name]}, {first.reference} {first.description[name]}; sums of both "
                    "mean nothing. Gather the parts of one data set with one model and the same options."
                )
    sums = {name: sum(part.read(name) for part in parts) for name in first.tensors}
    tensors = {name: entry | {"tokens": sum(part.tensors[name]["tokens"] for part in parts)} for name, entry in first.tensors.items()}
    counts = {name: sum(part.description[name] for part in parts) for name in ("rows", "tokens")}
    datasets = sorted({part.description["dataset"] for part in parts})
    return sums, dict(first.description) | counts | {"dataset": "+".join(datasets), "tensors": tensors}
