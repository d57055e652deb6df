"""A small input that a model can be run on: its axes are followed on it, and two models are compared on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lfm_tasks.errors import InvalidInput
from lfm_tasks.seeds import derive_seed

ROWS, TOKENS, IMAGE = 2, 7, 64
"""``IMAGE`` pixels a side where the config names no size."""


def example_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Raises :class:`InvalidInput` for a model that takes neither tokens nor images."""
    generator, config = torch.Generator().manual_seed(derive_seed(0, "example")), model.config
    if model.main_input_name == "input_ids" and not getattr(config, "is_encoder_decoder", False):
        return {"input_ids": torch.randint(config.vocab_size, (ROWS, TOKENS), generator=generator)}
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", IMAGE)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return {"pixel_values": torch.randn(ROWS, config.num_channels, height, width, generator=generator)}
    raise InvalidInput(f"A {config.model_type} model takes {model.main_input_name}; models of tokens or images can be aligned.")


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors of a model's output."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping | list | tuple):
        for one in output.values() if isinstance(output, Mapping) else output:
            yield from tensors_of(one)


def difference(model: PreTrainedModel, other: PreTrainedModel) -> float:
    """The largest difference between what two models give for the same example, as a share of the largest output."""
    inputs = example_inputs(model)
    with torch.no_grad():
        outputs = [list(tensors_of(one(**inputs))) for one in (model, other)]
    largest = max(float(tensor.abs().max()) for tensor in outputs[0])
    return max(float((a - b).abs().max()) for a, b in zip(*outputs, strict=True)) / max(largest, 1e-30)
