"""The step *restack*: a model from layers of one or more, to make it deeper (SOLAR, arXiv 2312.15166), shallower or a mixture."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lfm_tasks.errors import IncompatibleModels, InvalidInput
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.layers import numbered_layers, with_layers
from lfm_tasks.models.saving import save_companions
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import matches
from lfm_tasks.reuse.merge import open_checkpoint
from lfm_tasks.reuse.plan import Planned
from lfm_tasks.reuse.restack_config import RestackConfig
from lfm_tasks.reuse.streaming import check_finite
from lfm_tasks.reuse.writing import Writer
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of

AHEAD = 3
"""Tensors of which the first is copied while the others are on their way, where they come from far away."""


class Stack:
    """A checkpoint as numbered layers, and what is beside them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises :class:`IncompatibleModels` for a model without layers numbered from 0."""
        self.checkpoint, self.name = checkpoint, checkpoint.name
        self.config: dict[str, Any] = json.loads((checkpoint.directory / "config.json").read_text())
        self.prefix, numbers = numbered_layers(list(checkpoint.tensors))
        found = sorted(set(numbers.values()))
        if not found or found != list(range(len(found))):
            raise IncompatibleModels(f"{self.name} has no layers that are numbered from 0 on. Its numbers: {found or 'none'}.")
        self.layers: list[list[str]] = [[] for _ in found]
        """What follows the number in the names of each layer's tensors."""
        for name, number in numbers.items():
            self.layers[number].append(name.removeprefix(f"{self.prefix}{number}"))
        self.outside = [name for name in checkpoint.tensors if name not in numbers]

    def named(self, layer: int, part: str) -> str:
        return f"{self.prefix}{layer}{part}"

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        return {part: self.checkpoint.tensors[self.named(layer, part)].shape for part in self.layers[layer]}


@dataclass(frozen=True)
class Source:
    """Where a tensor of the result comes from."""

    checkpoint: Checkpoint
    name: str
    factor: float = 1.0

    @property
    def place(self) -> tuple[str, str, int]:
        """Sources in this order are read in the order of their files."""
        info = self.checkpoint.tensors[self.name]
        return self.checkpoint.key, info.file, info.place


def run(config: RestackConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    stacks = [Stack(open_checkpoint(model)) for model in all_of(inputs, "models")]
    chosen = _chosen(config, stacks)
    frame = stacks[config.frame]
    settings = with_layers(frame.name, frame.config, len(frame.layers), [(stack.config, layer) for stack, layer, _ in chosen])
    sources, planned = _plan(config, frame, chosen)
    directory = context.workdir / "model"
    context.log(f"{len(chosen)} layers of {len(stacks)} models, {len(planned)} tensors, {sum(one.size for one in planned):,} bytes.")
    writer = Writer(directory, planned)
    try:
        for done, one in enumerate(planned):
            for soon in planned[done : done + AHEAD]:
                sources[soon.name].checkpoint.expect(sources[soon.name].name)
            try:
                writer.write(one.name, _tensor(sources[one.name], one.dtype))
            except InvalidInput:
                sources[one.name].checkpoint.verify()
                raise
            context.report(done + 1, len(planned))
    finally:
        writer.close()
    save_companions(frame.checkpoint.directory, directory)
    if settings != frame.config:
        (directory / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    metrics = {
        "layers": float(len(chosen)),
        "parameters": float(sum(torch.Size(one.shape).numel() for one in planned)),
        "bytes_written": float(sum(one.size for one in planned)),
        "cpu_seconds": time.process_time() - began,
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    summary = {
        "models": [stack.name for stack in stacks],
        "frame": frame.name,
        "layers": [[stack.name, layer] for stack, layer, _ in chosen],
    }
    return Outcome(outputs={"model": Output("model", directory)}, metrics=metrics, summary=summary)


Layer = tuple[Stack, int, Mapping[str, float]]
"""A layer of the result: of which model, its number there, the factors of its slice."""


def _chosen(config: RestackConfig, stacks: Sequence[Stack]) -> list[Layer]:
    """Raises :class:`IncompatibleModels` with every slice that is not there, fits no layer of the frame, or scales nothing."""
    problems, chosen = [], []
    for model in {config.frame, *(one.model for one in config.slices)}:
        if model >= len(stacks):
            raise IncompatibleModels(f"Model {model} is named, but {len(stacks)} were given, numbered from 0.")
    frame = stacks[config.frame]
    known = [frame.shapes(layer) for layer in range(len(frame.layers))]
    for one in config.slices:
        stack = stacks[one.model]
        if one.layers[1] > len(stack.layers):
            problems.append(f"Layers {one.layers} of {stack.name}: it has {len(stack.layers)}, numbered from 0.")
            continue
        layers = range(*one.layers)
        names = [stack.named(layer, part) for layer in layers for part in stack.layers[layer]]
        problems += [f"scale: no tensor of {stack.name} in layers {one.layers} is named '{p}'." for p in one.scale if not _any(names, p)]
        if odd := [layer for layer in layers if stack.shapes(layer) not in known]:
            problems.append(
                f"Layers {odd} of {stack.name} have other tensors or shapes than those of {frame.name}. Use models of one shape."
            )
        chosen += [(stack, layer, one.scale) for layer in layers]
    if problems:
        raise IncompatibleModels(" ".join(problems))
    return chosen


def _any(names: Sequence[str], pattern: str) -> bool:
    return any(matches(name, [pattern]) for name in names)


def _plan(config: RestackConfig, frame: Stack, chosen: Sequence[Layer]) -> tuple[dict[str, Source], list[Planned]]:
    """Layers are spread over the frame's files as its own are."""
    tensors, sources, planned = frame.checkpoint.tensors, {}, []

    def add(name: str, source: Source, like: str) -> None:
        sources[name] = source
        shape = source.checkpoint.tensors[source.name].shape
        planned.append(Planned(name, tensors[like].file, tensors[like].dtype, shape, 0.0, merged=False))

    for name in frame.outside:
        add(name, Source(frame.checkpoint, name), name)
    for place, (stack, layer, scale) in enumerate(chosen):
        at = place * len(frame.layers) // len(chosen)
        for part in stack.layers[layer]:
            name, like = stack.named(layer, part), frame.named(at, part)
            factor = torch.tensor([value for pattern, value in scale.items() if matches(name, [pattern])], dtype=torch.float64).prod()
            like = like if like in tensors else frame.named(at, frame.layers[at][0])
            add(frame.named(place, part), Source(stack.checkpoint, name, float(factor)), like)
    return sources, sorted(planned, key=lambda one: sources[one.name].place)


def _tensor(source: Source, dtype: torch.dtype) -> torch.Tensor:
    tensor = source.checkpoint.read(source.name)
    if not tensor.is_floating_point():
        return tensor
    check_finite(tensor, f"{source.name} of {source.checkpoint.name} holds NaN or infinity. Use a model whose weights are finite.")
    if source.factor != 1:
        tensor = tensor * source.factor if tensor.dtype == torch.float64 else tensor.float() * source.factor
    scaled = tensor.to(dtype)
    check_finite(scaled, f"{source.name} of {source.checkpoint.name} overflows {dtype}. Choose a smaller scale.")
    return scaled
