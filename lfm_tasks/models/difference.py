"""How far the weights of two models are apart, tensor by tensor, streamed from safetensors: never a whole tensor in memory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

ELEMENTS_AT_ONCE = 1 << 22
Sums = tuple[float, float]
"""Squared norms: of the first, and of second minus first."""


def weight_difference(first: Path, second: Path) -> dict[str, Any]:
    """Relative change ‖second − first‖ / ‖first‖ of every tensor and layer of two model or adapter directories, as plain JSON.

    ``{"relative", "tensors": [{"name", "shape", "relative", "norm"}], "layers": [{"name", "relative", "tensors"}], "reshaped",
    "only_in_first", "only_in_second", "products"}``; norms are Frobenius norms, summed in float64, and ``relative`` is None
    where the first is all zeros or either is not finite. ``products`` compares what LoRA adapters add to each module,
    which does not depend on how it is factorised nor on the rank.
    """
    with ExitStack() as stack:
        ours, theirs = (_open(directory, stack) for directory in (first, second))
        shared = sorted(ours.keys() & theirs.keys())
        shapes = {name: (_shape(ours, name), _shape(theirs, name)) for name in shared}
        sums = {name: _tensor_sums(ours, theirs, name) for name, (one, other) in shapes.items() if one == other}
        return {
            "relative": _relative(_add(sums.values())),
            "tensors": [
                {"name": name, "shape": shapes[name][0], "relative": _relative(found), "norm": _finite(math.sqrt(found[0]))}
                for name, found in sums.items()
            ],
            "layers": _layers(sums),
            "reshaped": [{"name": name, "first": a, "second": b} for name, (a, b) in shapes.items() if a != b],
            "only_in_first": sorted(ours.keys() - theirs.keys()),
            "only_in_second": sorted(theirs.keys() - ours.keys()),
            "products": _products(first, second, ours, theirs),
        }


def layer_of(name: str) -> str:
    """The numbered block that a tensor belongs to (``model.layers.3``), else its module."""
    block = re.match(r"(?:[^.]+\.)*?\d+(?=\.)", name)
    return block[0] if block else name.rpartition(".")[0] or name


def _open(directory: Path, stack: ExitStack) -> dict[str, Any]:
    """{tensor: the open file that holds it}."""
    files = [stack.enter_context(safe_open(path, framework="pt")) for path in sorted(directory.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 (a file is no mapping)


def _shape(tensors: dict[str, Any], name: str) -> list[int]:
    return list(tensors[name].get_slice(name).get_shape())


def _tensor_sums(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> Sums:
    pieces = zip(_pieces(ours, name), _pieces(theirs, name), strict=True)
    return _add((float(a.square().sum()), float((b - a).square().sum())) for a, b in pieces)


def _pieces(tensors: dict[str, Any], name: str) -> Iterator[Tensor]:
    """Some rows of the tensor at a time, in float64."""
    shape = _shape(tensors, name)
    if not shape:
        yield tensors[name].get_tensor(name).double()
        return
    rows = max(1, ELEMENTS_AT_ONCE // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield tensors[name].get_slice(name)[start : start + rows].double()


def _layers(sums: dict[str, Sums]) -> list[dict[str, Any]]:
    groups: dict[str, list[Sums]] = {}
    for name, found in sums.items():
        groups.setdefault(layer_of(name), []).append(found)
    layers = [{"name": name, "relative": _relative(_add(group)), "tensors": len(group)} for name, group in groups.items()]
    return sorted(layers, key=lambda layer: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", layer["name"])])


def _products(first: Path, second: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> list[dict[str, Any]]:
    names = sorted(name for name in ours.keys() & theirs.keys() if name.endswith("lora_A.weight"))
    found = []
    for name in names:
        (up, down), (other_up, other_down) = _factors(first, ours, name), _factors(second, theirs, name)
        if up.shape[0] == other_up.shape[0] and down.shape[1] == other_down.shape[1]:
            change = _product_norm(torch.cat([other_up, -up], dim=1), torch.cat([other_down, down]))
            module = name.removesuffix(".lora_A.weight").removeprefix("base_model.model.")
            norm = _product_norm(up, down)
            found.append({"name": module, "relative": _relative((norm**2, change**2)), "norm": norm})
    return found


def _factors(directory: Path, tensors: dict[str, Any], name: str) -> tuple[Tensor, Tensor]:
    """``up`` [out, rank], scaled, and ``down`` [rank, in], so that the adapter adds ``up @ down`` to the module."""
    config = json.loads((directory / "adapter_config.json").read_text())
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    other = name.replace("lora_A", "lora_B")
    return scale * tensors[other].get_tensor(other).double(), tensors[name].get_tensor(name).double()


def _product_norm(up: Tensor, down: Tensor) -> float:
    """‖up @ down‖ without forming the product: only the triangular factors of both matter."""
    return float((torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T).norm())


def _add(sums: Any) -> Sums:
    pairs = list(sums)
    return math.fsum(a for a, _ in pairs), math.fsum(b for _, b in pairs)


def _relative(sums: Sums) -> float | None:
    norm, change = (math.sqrt(value) for value in sums)
    if change == 0:
        return 0.0
    return _finite(change / norm) if norm else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
