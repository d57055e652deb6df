"""LoraHub (Huang et al. 2023): weights of a composition, found without gradients on few labelled examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.forward import forward_with, stream
from lfm_tasks.models.opening import check_labels, check_vocabulary, open_causal_lm, open_classifier
from lfm_tasks.models.prepared import Rows, read_rows
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.reuse.adapters.config import LorahubConfig
from lfm_tasks.reuse.adapters.factors import Factors
from lfm_tasks.reuse.adapters.lora import LoraAdapter
from lfm_tasks.step import Input, StepContext

CHUNK = 16
"""Rows in one forward pass."""


@dataclass
class Search:
    """``objectives`` holds loss and penalty at every point that was tried, in their order; the first is the loss without adapters."""

    weights: list[float]
    objectives: list[float] = field(default_factory=list)


def search(loss: Callable[[list[float]], float], count: int, options: LorahubConfig, context: StepContext) -> Search:
    """Minimise loss(w) + penalty * sum_i |w_i| over |w_i| <= bound, from w = 0, by COBYQA; the best point of all that were tried.

    Raises :class:`ConfigError` for fewer evaluations than a quadratic model of the loss needs.
    """
    if options.evaluations <= 2 * count + 1:
        raise ConfigError(f"evaluations={options.evaluations}: the search over {count} weights needs {2 * count + 2} or more.")
    found = Search([0.0] * count)

    def objective(point: Sequence[float]) -> float:
        weights = [float(weight) for weight in point]
        value = loss(weights) + options.penalty * sum(map(abs, weights))
        if not found.objectives or value < min(found.objectives):
            found.weights = weights
        found.objectives.append(value)
        context.report(len(found.objectives), options.evaluations, {"objective": value})
        return value

    settings = {"maxfev": options.evaluations, "initial_tr_radius": options.bound / 3}
    minimize(objective, [0.0] * count, method="COBYQA", bounds=[(-options.bound, options.bound)] * count, options=settings)
    return found


def loss_on_examples(
    adapter: LoraAdapter, heads: Mapping[str, Tensor], dataset: Input, examples: int, seed: int
) -> Callable[[Mapping[str, Factors]], float]:
    """Mean cross-entropy of the adapter's base under given layers and ``heads``, on so many rows of the split train.

    Of a language model it is that of the answer's first token. Raises :class:`ConfigError` and :class:`IncompatibleModels` for rows
    of another task, other classes or another tokenizer.
    """
    rows, base = _rows(adapter, dataset), adapter.source.base
    model = open_causal_lm(base) if adapter.entry["task"] == "causal_lm" else open_classifier(base, rows.labels)
    check_vocabulary(model, tokenizer_digest(base.path), rows.description)
    batch = next(stream(rows, examples, model.config.pad_token_id or 0, seed, "lorahub"))
    starts = range(0, len(batch["target"]), CHUNK)
    chunks = [{name: tensor[start : start + CHUNK] for name, tensor in batch.items()} for start in starts]

    @torch.no_grad()
    def loss(layers: Mapping[str, Factors]) -> float:
        given = dict(heads)
        for name, layer in layers.items():
            weight, change = model.get_parameter(f"{name}.weight"), layer.product()
            given[f"{name}.weight"] = weight + (change.T if adapter.config.fan_in_fan_out else change).to(weight.dtype)
        total = 0.0
        for chunk in chunks:
            total += float(cross_entropy(forward_with(model, given, chunk).float(), chunk["target"], reduction="sum"))
        return total / len(batch["target"])

    return loss


def _rows(adapter: LoraAdapter, dataset: Input) -> Rows:
    rows, task = read_rows(dataset.path, "train"), adapter.entry["task"]
    if rows.task == "text" or (rows.task == "classification") != (task == "classification"):
        raise ConfigError(
            f"{dataset.reference} is a data set of the task {rows.task}; the adapters are for {task}. Give labelled rows of their task."
        )
    if rows.task == "classification":
        check_labels(adapter.source, rows.labels)
    return rows
