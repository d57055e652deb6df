"""LoraHub (Huang et al. 2023): weights of a composition, found without gradients on few labelled examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from transformers import PreTrainedModel

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.forward import forward, stream
from lfm_tasks.models.opening import check_vocabulary, load_tensors, open_causal_lm, open_classifier
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.reuse.adapters.config import LorahubConfig, Space
from lfm_tasks.reuse.adapters.lora import LoraAdapter
from lfm_tasks.step import Input, StepContext

CHUNK = 16
"""Rows in one forward pass."""


@dataclass
class Search:
    """``losses`` holds the objective at every point that was tried, in their order."""

    weights: list[float]
    losses: list[float] = field(default_factory=list)


def search(
    adapters: Sequence[LoraAdapter], dataset: Input, options: LorahubConfig, space: Space, seed: int, context: StepContext
) -> Search:
    """Minimise cross-entropy + penalty * sum_i |w_i| over |w_i| <= bound, from w = 0, by COBYQA; the best point of all that were tried.

    ``product`` adds sum_i w_i B_i A_i to a layer, ``factors`` (sum_i w_i B_i)(sum_i w_i A_i) as in the paper.
    Raises :class:`ConfigError` for fewer evaluations than a quadratic model of the loss needs, and for unlabelled data.
    """
    count = len(adapters)
    if options.evaluations <= 2 * count + 1:
        raise ConfigError(f"evaluations={options.evaluations}: the search over {count} weights needs {2 * count + 2} or more.")
    model = _model(adapters[0])
    batches = _batches(model, adapters[0], dataset, options, seed)
    changes = _Changes(model, adapters, space)
    found = Search([0.0] * count)

    def objective(weights: Sequence[float]) -> float:
        context.report(len(found.losses), options.evaluations)
        changes.apply([float(weight) for weight in weights])
        loss = _loss(model, batches) + options.penalty * float(sum(abs(weight) for weight in weights))
        if not found.losses or loss < min(found.losses):
            found.weights = [float(weight) for weight in weights]
        found.losses.append(loss)
        return loss

    bounds = [(-options.bound, options.bound)] * count
    settings = {"maxfev": options.evaluations, "initial_tr_radius": options.bound / 3}
    minimize(objective, [0.0] * count, method="COBYQA", bounds=bounds, options=settings)
    return found


class _Changes:
    """Puts a composition on the weights of the model."""

    def __init__(self, model: nn.Module, adapters: Sequence[LoraAdapter], space: Space) -> None:
        self.adapters, self.space = adapters, space
        names = sorted({module for adapter in adapters for module in adapter.layers})
        self.weights = {name: model.get_parameter(f"{name}.weight") for name in names}
        self.originals = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def apply(self, weights: Sequence[float]) -> None:
        for name, weight in self.weights.items():
            change = self._change(name, weights)
            original = self.originals[name]
            weight.copy_(original + (change.T if self.adapters[0].config.fan_in_fan_out else change).to(original.dtype))

    def _change(self, name: str, weights: Sequence[float]) -> Tensor:
        parts = [(one.layers[name], weight) for one, weight in zip(self.adapters, weights, strict=True) if name in one.layers]
        if self.space == "factors":
            return sum(part.up * weight for part, weight in parts) @ sum(part.down * weight for part, weight in parts)
        return torch.cat([part.up * weight for part, weight in parts], 1) @ torch.cat([part.down for part, _ in parts])


def _model(adapter: LoraAdapter) -> PreTrainedModel:
    base = adapter.source.base
    if adapter.entry["task"] == "causal_lm":
        return open_causal_lm(base)
    return load_tensors(open_classifier(base, adapter.labels or None), adapter.heads, adapter.source.reference)


def _batches(model: PreTrainedModel, adapter: LoraAdapter, dataset: Input, options: LorahubConfig, seed: int) -> list[dict[str, Tensor]]:
    rows, base = read_rows(dataset.path, "train"), adapter.source.base
    model_task = "classification" if rows.task == "classification" else "causal_lm"
    if rows.task == "text" or model_task != adapter.entry["task"] or (adapter.labels and rows.labels != adapter.labels):
        raise ConfigError(
            f"{dataset.reference} is a data set of the task {rows.task} with the classes {rows.labels}; the adapters are for "
            f"{adapter.entry['task']} with {adapter.labels}. Give labelled rows of their task."
        )
    check_vocabulary(model, tokenizer_digest(base.path), rows.description)
    batch = next(stream(rows, options.examples, 0, seed, "lorahub"))
    return [{name: tensor[start : start + CHUNK] for name, tensor in batch.items()} for start in range(0, len(batch["target"]), CHUNK)]


@torch.no_grad()
def _loss(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> float:
    summed = [nn.functional.cross_entropy(forward(model, batch).float(), batch["target"], reduction="sum") for batch in batches]
    return float(sum(summed)) / sum(len(batch["target"]) for batch in batches)
