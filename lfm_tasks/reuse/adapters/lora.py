"""LoRA adapters as factors of what they add to each layer: W' = W + B A."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.opening import model_directory, read_adapter
from lfm_tasks.models.saving import ADAPTER_WEIGHTS
from lfm_tasks.reuse.adapters.factors import Factors
from lfm_tasks.reuse.streaming import check_finite
from lfm_tasks.step import Input

PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class LoraAdapter:
    source: Input
    config: LoraConfig
    layers: dict[str, Factors]
    """By the names of the base's modules, in float32 (float64 where stored so)."""
    heads: dict[str, Tensor]
    """Parameters that were trained whole, by their names in the model."""
    entry: dict[str, Any]
    """The content of ``lfm_adapter.json``."""

    @property
    def labels(self) -> list[str]:
        return self.entry["labels"]


def open_adapter(source: Input) -> LoraAdapter:
    """Raises :class:`IncompatibleModels` for an adapter that is not W + B A alone, :class:`InvalidInput` for NaN."""
    model_directory(source)
    config = _config(source)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(source.path / ADAPTER_WEIGHTS).items()}
    for name, tensor in tensors.items():
        check_finite(tensor, f"{name} of {source.reference} holds NaN or infinity. Merge adapters whose weights are finite.")
    modules = sorted(name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN))
    layers = {module: _factors(tensors.pop(module + DOWN), tensors.pop(module + UP), config, module) for module in modules}
    saved = tuple(config.modules_to_save or ())
    if others := sorted(name for name in tensors if not any(f".{module}." in f".{name}" for module in saved)):
        raise IncompatibleModels(
            f"{source.reference} holds '{others[0]}', which is no factor of a linear layer. {_DORA if config.use_dora else _PLAIN}"
        )
    return LoraAdapter(source, config, layers, tensors, read_adapter(source.path))


_PLAIN = "Merge adapters that were made by LoRA or rsLoRA on linear layers."
_DORA = (
    "DoRA divides by the norm of the whole weight, so what it adds has no low rank. Merge the models instead: the step 'tune' makes one "
    "beside each adapter (save_merged), and the step 'merge' takes them with their base."
)


def check_compatible(adapters: Sequence[LoraAdapter]) -> None:
    """Raise :class:`IncompatibleModels` unless all are on one base, for one task, with layers of one shape."""
    first, problems = adapters[0], []
    for other in adapters[1:]:
        name, bases = other.source.reference, [one.entry["base"]["sha256"] for one in (first, other)]
        if bases[0] != bases[1]:
            problems.append(f"{name} is on the base sha256:{bases[1]}, {first.source.reference} on sha256:{bases[0]}.")
        if first.entry["task"] != other.entry["task"]:
            problems.append(f"{name} is for {other.entry['task']}, {first.source.reference} for {first.entry['task']}.")
        for module in sorted(first.layers.keys() & other.layers.keys()):
            shapes = [list(one.layers[module].shape) for one in (first, other)]
            if shapes[0] != shapes[1]:
                problems.append(f"{module} is {shapes[0]} in {first.source.reference} and {shapes[1]} in {name}.")
    if problems:
        raise IncompatibleModels(f"The adapters cannot be merged. {' '.join(problems[:20])} Merge adapters that were tuned on one base.")


def tensors_of(layers: Mapping[str, Factors], heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As peft stores them."""
    named = {name: tensor for module, layer in layers.items() for name, tensor in ((module + DOWN, layer.down), (module + UP, layer.up))}
    return {PREFIX + name: tensor for name, tensor in (named | dict(heads)).items()}


def config_of(layers: Mapping[str, Factors], like: LoraConfig) -> LoraConfig:
    """Of an adapter with these layers, whose scaling is 1."""
    ranks = {module: layer.rank for module, layer in layers.items()}
    most = max(ranks.values())
    pattern = {module: rank for module, rank in ranks.items() if rank != most}
    return LoraConfig(
        r=most,
        lora_alpha=most,
        rank_pattern=pattern,
        alpha_pattern=pattern,
        target_modules=sorted(layers),
        modules_to_save=sorted(like.modules_to_save) if like.modules_to_save else None,
        fan_in_fan_out=like.fan_in_fan_out,
        task_type=like.task_type,
        inference_mode=True,
    )


def scaling(config: LoraConfig, module: str, rank: int) -> float:
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)


def _factors(down: Tensor, up: Tensor, config: LoraConfig, module: str) -> Factors:
    """Each factor gets the root of the scaling, so that one is not small beside the other."""
    dtype = torch.promote_types(down.dtype, torch.float32)
    root = math.sqrt(scaling(config, module, down.shape[0]))
    return Factors(down.to(dtype) * root, up.to(dtype) * root)


def _config(source: Input) -> LoraConfig:
    path: Path = source.path / "adapter_config.json"
    config = PeftConfig.from_pretrained(str(source.path)) if path.is_file() else None
    if not isinstance(config, LoraConfig):
        kind = "no peft adapter" if config is None else f"of the type {config.peft_type}"
        raise IncompatibleModels(f"{source.reference} is {kind}. {_PLAIN}")
    return config
