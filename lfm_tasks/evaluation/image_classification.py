"""Image classification: the class with the highest logit, of images at the model's own scale of values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lfm_tasks.errors import DataError, IncompatibleModels
from lfm_tasks.evaluation.answers import ClassScores
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.images import ImageSpace, class_names, image_space, open_image_classifier
from lfm_tasks.models.prepared import Rows
from lfm_tasks.step import Input

BATCH = 256


class ImageClassification:
    needs = "image_classifier"

    def group(self, rows: Rows) -> str:
        return "classification"

    def check(self, rows: Rows) -> None:
        if rows.task != "images":
            raise DataError(
                f"The task 'image_classification' needs labelled images; this data set is of kind '{rows.task}'. Prepare it by the step "
                "'prepare_images'."
            )

    def ask(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> ClassScores:
        return ClassScores.of_logits(rows, image_logits(subject, rows, progress))

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        return self.ask(subject, rows, config, progress).table()


@torch.inference_mode()
def image_logits(subject: Subject, rows: Rows, progress: Callable[[int], None] = lambda done: None) -> NDArray[np.float64]:
    """``[samples, classes]``."""
    found = []
    for start in range(0, len(rows), BATCH):
        part = rows.columns["pixels"][start : start + BATCH]
        pixels = torch.from_numpy(np.frombuffer(b"".join(part), np.uint8).copy())
        images = subject.images.pixel_values(pixels.reshape(len(part), *shape_of(rows)))
        found.append(subject.model(pixel_values=images.to(subject.model.device)).logits.double().cpu().numpy())
        progress(len(part))
    return np.concatenate(found)


def shape_of(rows: Rows) -> tuple[int, int, int]:
    return tuple(rows.description[name] for name in ("channels", "height", "width"))


def open_image_subject(source: Input, rows: Rows, device: str) -> Subject:
    """Raises :class:`IncompatibleModels` for rows of other classes, or of images of another shape than the model takes."""
    model = open_image_classifier(source)
    names, (channels, height, width) = class_names(model), shape_of(rows)
    if len(names) != len(rows.labels) or (names != rows.labels and names[0] != "LABEL_0"):
        raise IncompatibleModels(
            f"{source.reference} tells the classes {', '.join(names)} apart, in this order; the data set has {', '.join(rows.labels)}. "
            "Take data with the model's classes."
        )
    space: ImageSpace = image_space(source, height)
    fixed = getattr(model.config, "image_size", height)
    if channels != space.channels or height != width or fixed not in (height, [height, width]):
        raise IncompatibleModels(
            f"{source.reference} takes square images of {space.channels} channels and size {fixed}; those of the data set are {channels} x "
            f"{height} x {width}. Prepare them with image_size={fixed}."
        )
    return Subject(model.to(device).eval(), None, space)
