"""Toy models to mix: a bare base, classifiers of other classes tuned from it, and rows of each one's task."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lfm_tasks.reuse.mixtures import mix
from lfm_tasks.reuse.mixtures.config import MixConfig
from lfm_tasks.step import Input, Outcome
from tests.toys import make_bert, make_llama
from tests.tuned import Context

CLASSES = (["no", "yes"], ["bad", "fair", "good"])
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 30, 11, 12, 40]])


def given(directory: Path, kind: str = "model") -> Input:
    """Named by its content, as the store would."""
    content = b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file())
    return Input(directory.name, kind, hashlib.sha256(content).hexdigest(), directory)


def encoders(root: Path, **shape) -> list[Path]:
    """A bare BERT, and classifiers whose bodies moved away from it."""
    make_bert(root / "base", **shape)
    body = load_file(root / "base" / "model.safetensors")
    for seed, labels in enumerate(CLASSES, start=1):
        make_bert(root / f"expert{seed}", labels=labels, seed=seed, **shape)
        tensors = load_file(root / f"expert{seed}" / "model.safetensors")
        moved = noisy(body, seed)
        write(root / f"expert{seed}", tensors | {f"bert.{name}": tensor for name, tensor in moved.items() if f"bert.{name}" in tensors})
    return [root / "base", root / "expert1", root / "expert2"]


def decoders(root: Path, **shape) -> list[Path]:
    make_llama(root / "base", **shape)
    for seed in (1, 2):
        shutil.copytree(root / "base", root / f"expert{seed}")
        write(root / f"expert{seed}", noisy(load_file(root / "base" / "model.safetensors"), seed))
    return [root / "base", root / "expert1", root / "expert2"]


def noisy(tensors: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}


def write(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def mixed(models: list[Path], work: Path, datasets: list[Path] = (), context: Context | None = None, **values) -> Outcome:
    """The outcome of the step mix on a base and its experts."""
    inputs = {"base": given(models[0])} | {f"models.{place}": given(one) for place, one in enumerate(models[1:])}
    inputs |= {f"datasets.{place}": given(one, "dataset") for place, one in enumerate(datasets)}
    return mix.run(MixConfig(**values), inputs, context or Context(work))


def result(outcome: Outcome) -> Input:
    return given(outcome.outputs["model"].path)


def files(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def edit(directory: Path, name: str, change) -> None:
    content = json.loads((directory / name).read_text())
    change(content)
    (directory / name).write_text(json.dumps(content))
