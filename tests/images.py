"""Toy image classifiers of a few thousand parameters, and images of three classes that one bright place tells apart."""

from __future__ import annotations

import hashlib
import io
import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from lfm_tasks.step import Input

LABELS = ["left", "middle", "right"]
SIZE = 8
MEAN, STD = 0.3, 0.4
NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
ARCHITECTURES = {
    "resnet": (
        ResNetForImageClassification,
        lambda: ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **NAMES),
    ),
    "vit": (
        ViTForImageClassification,
        lambda: ViTConfig(
            num_channels=1,
            image_size=SIZE,
            patch_size=4,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            **NAMES,
        ),
    ),
    "convnext": (
        ConvNextForImageClassification,
        lambda: ConvNextConfig(num_channels=1, patch_size=4, num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], **NAMES),
    ),
}


def pixels(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bytes [count, 1, 8, 8] and classes [count]."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % len(LABELS)
    images = torch.randint(0, 80, (count, 1, SIZE, SIZE), generator=random)
    for place, one in enumerate(classes):
        images[place, 0, :, 3 * int(one) : 3 * int(one) + 2] += 150
    return images.to(torch.uint8), classes


def images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """As the toys take them."""
    found, classes = pixels(count, seed)
    return (found.float() / 255 - MEAN) / STD, classes


def toy(kind: str = "resnet", seed: int = 0) -> PreTrainedModel:
    architecture, config = ARCHITECTURES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return architecture(config()).eval()


def trained(kind: str = "resnet", seed: int = 0) -> PreTrainedModel:
    """A toy that tells the three classes apart; the caller's own."""
    return deepcopy(_trained(kind, seed))


@cache
def _trained(kind: str, seed: int, steps: int = 40) -> PreTrainedModel:
    model, (x, y) = toy(kind, seed).train(), images(96, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        rows = slice(32 * (step % 3), 32 * (step % 3) + 32)
        optimizer.zero_grad()
        functional.cross_entropy(model(pixel_values=x[rows]).logits, y[rows]).backward()
        optimizer.step()
    return model.eval()


def accuracy(model: PreTrainedModel, seed: int = 9) -> float:
    x, y = images(60, seed)
    with torch.no_grad():
        return (model.eval()(pixel_values=x).logits.argmax(-1) == y).float().mean().item()


def write(model: PreTrainedModel, directory: Path, *, preprocessor: bool = True) -> Input:
    model.save_pretrained(directory)
    if preprocessor:
        content = {"size": {"height": SIZE, "width": SIZE}, "image_mean": [MEAN], "image_std": [STD], "rescale_factor": 1 / 255}
        (directory / "preprocessor_config.json").write_text(json.dumps(content))
    return Input(directory.name, "model", hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(), directory)


def write_images(directory: Path, count: int = 60, seed: int = 9) -> Input:
    """Raw images as Hugging Face writes them, a third of them for the test."""
    found, classes = pixels(count, seed)
    rows = []
    for place, (one, label) in enumerate(zip(found, classes, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(one[0].numpy()).save(buffer, "png")
        split = "test" if place % 3 == place // 3 % 3 else "train"
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": LABELS[label], "split": split})
    directory.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), directory / "data.parquet")
    return Input(directory.name, "dataset", "d" * 64, directory)
