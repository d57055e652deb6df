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
from lfm_tasks.reuse.adapters.kernels import AdapterMethod, Layer
from lfm_tasks.reuse.adapters.lora import Factors, LoraAdapter, check_compatible, config_of, open_adapter, tensors_of
from lfm_tasks.reuse.adapters.lorahub import Search, search
from lfm_tasks.reuse.methods.config import TaskArithmeticConfig
from lfm_tasks.reuse.streaming import check_finite
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of


def run(config: MergeAdaptersConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    adapters = [open_adapter(source) for source in all_of(inputs, "adapters")]
    check_compatible(adapters)
    method: AdapterMethod = METHODS[config.method].function
    options, found = config.method_config(), None
    if method.searched:
        found = _search(adapters, config, inputs, context)
        options = TaskArithmeticConfig(weights=found.weights)
    layers = merge_layers(adapters, method, options, config)
    directory = context.workdir / "adapter"
    first = adapters[0]
    save_lora(
        tensors_of(layers, _heads(adapters, config)),
        config_of(layers, first.config),
        directory,
        method=config.method,
        base_sha256=first.entry["base"]["sha256"],
        task=first.entry["task"],
        labels=first.labels,
    )
    context.log(f"{config.method}: {len(adapters)} adapters, {len(layers)} layers, rank {max(one.rank for one in layers.values())}.")
    return Outcome(
        outputs={"adapter": Output("adapter", directory)}, metrics=_metrics(layers, found), summary=_summary(config, adapters, found)
    )


def merge_layers(adapters: Sequence[LoraAdapter], method: AdapterMethod, options: Any, config: MergeAdaptersConfig) -> dict[str, Factors]:
    """Every layer that one of the adapters changes; the others count as no change there."""
    merged = {}
    for name in sorted({module for adapter in adapters for module in adapter.layers}):
        places = [place for place, adapter in enumerate(adapters) if name in adapter.layers]
        chosen = [adapters[place] for place in places]
        for adapter in chosen:
            for factor in (adapter.layers[name].down, adapter.layers[name].up):
                check_finite(
                    factor, f"{name} of {adapter.source.reference} holds NaN or infinity. Merge adapters whose weights are finite."
                )
        layer = Layer(
            name,
            tuple(adapter.layers[name] for adapter in chosen),
            tuple(adapter.source.sha256 for adapter in chosen),
            tuple(places),
            len(adapters),
        )
        merged[name] = method.kernel(layer, options, config)
    return merged


def _search(adapters: Sequence[LoraAdapter], config: MergeAdaptersConfig, inputs: Mapping[str, Input], context: StepContext) -> Search:
    if "dataset" not in inputs:
        raise ConfigError(f"{config.method} chooses its weights on labelled rows, and none were given. Give the input 'dataset'.")
    return search(adapters, inputs["dataset"], config.method_config(), config.space, config.seed, context)


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
        metrics |= {"evaluations": float(len(found.losses)), "loss_first": found.losses[0], "loss_best": min(found.losses)}
    return metrics


def _summary(config: MergeAdaptersConfig, adapters: Sequence[LoraAdapter], found: Search | None) -> dict[str, Any]:
    return {
        "method": config.method,
        "space": config.space,
        "adapters": [adapter.source.reference for adapter in adapters],
        "base": f"sha256:{adapters[0].entry['base']['sha256']}",
        **({"weights": found.weights} if found else {}),
    }
