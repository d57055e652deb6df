"""The step *merge_adapters*: LoRA adapters of one base to one adapter; the base itself is not touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.saving import save_lora
from lfm_tasks.reuse.adapters.config import MergeAdaptersConfig
from lfm_tasks.reuse.adapters.factors import Factors
from lfm_tasks.reuse.adapters.kernels import AdapterMethod, Layer
from lfm_tasks.reuse.adapters.lora import LoraAdapter, check_compatible, config_of, open_adapter, tensors_of
from lfm_tasks.reuse.adapters.lorahub import Search, loss_on_examples, search
from lfm_tasks.reuse.methods.config import TaskArithmeticConfig
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of


def run(config: MergeAdaptersConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Raises :class:`ConfigError` for a method that needs a data set and has none, and for one that has but needs none."""
    method: AdapterMethod = METHODS[config.method].function
    if method.searched != ("dataset" in inputs):
        need = "chooses its weights on labelled rows. Give" if method.searched else "reads no rows. Leave out"
        raise ConfigError(f"The method {config.method} {need} the input 'dataset'.")
    adapters = [open_adapter(source) for source in all_of(inputs, "adapters")]
    check_compatible(adapters)
    options, heads, found = config.method_config(), _heads(adapters, config), None

    def merged(options: TaskArithmeticConfig) -> dict[str, Factors]:
        return merge_layers(adapters, method, options, config.seed)

    if method.searched:
        loss = loss_on_examples(adapters[0], heads, inputs["dataset"], options.examples, config.seed)
        found = search(lambda weights: loss(merged(options.at(weights))), len(adapters), options, context)
    layers = merged(options.at(found.weights) if found else options)
    directory, first = context.workdir / "adapter", adapters[0]
    save_lora(
        tensors_of(layers, heads),
        config_of(layers, first.config),
        directory,
        method=config.method,
        base_sha256=first.entry["base"]["sha256"],
        task=first.entry["task"],
        labels=first.labels,
    )
    context.log(f"{config.method}: {len(adapters)} adapters, {len(layers)} layers, rank {max(one.rank for one in layers.values())}.")
    return Outcome(
        outputs={"adapter": Output("adapter", directory)},
        metrics=_metrics(layers, found),
        summary=_summary(config, adapters, layers, found),
    )


def merge_layers(adapters: Sequence[LoraAdapter], method: AdapterMethod, options: TaskArithmeticConfig, seed: int) -> dict[str, Factors]:
    """Every layer that one of the adapters changes; the others count as no change there."""
    merged, weights = {}, options.weights_of(len(adapters))
    for name in sorted({module for adapter in adapters for module in adapter.layers}):
        here = [(adapter, weight) for adapter, weight in zip(adapters, weights, strict=True) if name in adapter.layers]
        factors, keys = zip(*((adapter.layers[name], adapter.source.sha256) for adapter, _ in here), strict=True)
        own = options.model_copy(update={"weights": [weight for _, weight in here]})
        merged[name] = method.kernel(Layer(name, factors, keys, seed), own)
    return merged


def _heads(adapters: Sequence[LoraAdapter], config: MergeAdaptersConfig) -> dict[str, Tensor]:
    """Raises :class:`IncompatibleModels` for a mean of heads that name other classes."""
    first = adapters[0]
    if config.heads == "first" or not first.heads:
        return first.heads
    for other in adapters[1:]:
        if other.labels != first.labels or other.heads.keys() != first.heads.keys():
            raise IncompatibleModels(
                f"heads=mean: {other.source.reference} has the classes {other.labels}, {first.source.reference} {first.labels}. "
                "Set heads=first, or merge adapters of the same classes."
            )
    return {
        name: torch.stack([adapter.heads[name].float() for adapter in adapters]).mean(0).to(head.dtype)
        for name, head in first.heads.items()
    }


def _metrics(layers: Mapping[str, Factors], found: Search | None) -> dict[str, float]:
    metrics = {
        "layers": float(len(layers)),
        "parameters": float(sum(one.down.numel() + one.up.numel() for one in layers.values())),
        "rank": float(max(one.rank for one in layers.values())),
        "kept_energy": min(one.kept for one in layers.values()),
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    if found is not None:
        metrics |= {
            "evaluations": float(len(found.objectives)),
            "objective_first": found.objectives[0],
            "objective_best": min(found.objectives),
        }
    return metrics


def _summary(
    config: MergeAdaptersConfig, adapters: Sequence[LoraAdapter], layers: Mapping[str, Factors], found: Search | None
) -> dict[str, Any]:
    return {
        "method": config.method,
        "adapters": [adapter.source.reference for adapter in adapters],
        "base": f"sha256:{adapters[0].entry['base']['sha256']}",
        "ranks": sorted({one.rank for one in layers.values()}),
        **({"weights": found.weights} if found else {}),
    }
