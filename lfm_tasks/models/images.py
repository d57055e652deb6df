"""What an image classifier takes: how large its images are and between which values, from its directory's files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lfm_tasks.errors import IncompatibleModels, InvalidInput
from lfm_tasks.models.opening import model_directory, open_as_saved, read_config
from lfm_tasks.models.saving import PREPROCESSOR
from lfm_tasks.step import Input

HALF = 0.5


@dataclass(frozen=True)
class ImageSpace:
    """``pixel_values`` are [batch, channels, height, width]: bytes times ``rescale``, less ``mean``, over ``std`` [channels]."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float = 1 / 255

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value of each channel, [channels, 1, 1]."""
        mean, std = self._columns()
        return (0.0 - mean) / std, (255 * self.rescale - mean) / std

    def clip(self, images: Tensor) -> Tensor:
        low, high = self.bounds()
        return torch.minimum(torch.maximum(images, low), high)

    def pixel_values(self, pixels: Tensor) -> Tensor:
        """Of bytes [batch, channels, height, width]."""
        mean, std = self._columns()
        return (pixels.float() * self.rescale - mean) / std

    def visible(self, images: Tensor) -> Tensor:
        """The inverse of :meth:`pixel_values`, as values from 0 to 1."""
        mean, std = self._columns()
        return ((images * std + mean) / (255 * self.rescale)).clamp(0, 1)

    def _columns(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]


def open_image_classifier(source: Input) -> PreTrainedModel:
    """Raises :class:`IncompatibleModels` for a model that is none."""
    config = read_config(model_directory(source))
    if not any(name.endswith("ForImageClassification") for name in config.architectures or ()):
        raise IncompatibleModels(
            f"{source.reference} is saved as {', '.join(config.architectures or ['a model without a class'])}, which classifies no images. "
            "Give a model of a class …ForImageClassification."
        )
    return open_as_saved(source)


def class_names(model: PreTrainedModel) -> list[str]:
    return [model.config.id2label[index] for index in range(model.config.num_labels)]


def image_space(source: Input, size: int = 0) -> ImageSpace:
    """``size`` 0 takes that of the preprocessor, or of the config. Without a preprocessor the values lie between -1 and 1.

    Raises :class:`InvalidInput` where nothing says how large the images are.
    """
    directory = model_directory(source)
    config, path = read_config(directory), directory / PREPROCESSOR
    found = json.loads(path.read_text()) if path.is_file() else {}
    channels = getattr(config, "num_channels", 3)
    height, width = (size, size) if size else _size(found, config, source)
    rescale = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1.0
    normalised = found.get("do_normalize", True)
    mean, std = ((found.get(key, HALF) if normalised else default) for key, default in (("image_mean", 0.0), ("image_std", 1.0)))
    return ImageSpace(channels, height, width, _each(mean, channels, source), _each(std, channels, source), rescale)


def _size(preprocessor: dict[str, Any], config: Any, source: Input) -> tuple[int, int]:
    cropped = preprocessor.get("crop_size") if preprocessor.get("do_center_crop") else None
    size = cropped or preprocessor.get("size") or getattr(config, "image_size", None)
    if isinstance(size, dict):
        size = size.get("shortest_edge") or (size.get("height"), size.get("width"))
    if isinstance(size, int):
        return size, size
    if size and all(size):
        return tuple(size)
    raise InvalidInput(f"Nothing in {source.reference} says how large its images are. Add {PREPROCESSOR} with a size, or set image_size.")


def _each(value: float | list[float], channels: int, source: Input) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, list) else (value,) * channels
    if len(values) != channels:
        raise IncompatibleModels(f"{PREPROCESSOR} of {source.reference} has {len(values)} means or deviations for {channels} channels.")
    return values
