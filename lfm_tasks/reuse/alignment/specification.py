"""Which units of a model may change places, and in which tensors each of them stands: found by following one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lfm_tasks.errors import InvalidInput
from lfm_tasks.reuse.alignment.axes import Atom, fix, resolve
from lfm_tasks.reuse.alignment.tracing import AxisTrace
from lfm_tasks.reuse.config import matches

Factor = tuple[str | None, int]
"""Group of interchangeable units, or None, and how many."""
Factors = tuple[Factor, ...]
Permutations = dict[str, Tensor]
"""For each group the unit that comes to each place: ``aligned[i] = model[permutation[i]]``."""


@dataclass(frozen=True)
class Specification:
    axes: dict[str, tuple[Factors, ...]]
    """Of each tensor, the factors of each dimension, outermost first."""
    groups: dict[str, int]
    """Groups in the order of the tensors, each named by the first place that it stands at, and their sizes."""
    features: dict[str, tuple[int, Factors]]
    """Modules whose output shows units of a group: its dimension (counted from the end) and that dimension's factors."""
    unknown: tuple[str, ...]
    """Operations that were not understood and so fixed what went into them."""

    def dims(self, name: str) -> Factors:
        """The factors of all dimensions of a tensor, one after the other."""
        return tuple(factor for factors in self.axes[name] for factor in factors)

    def unfold(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor with a dimension for each factor."""
        return tensor.reshape([size for _, size in self.dims(name)])

    def apply(self, name: str, tensor: Tensor, permutations: Permutations) -> Tensor:
        """The permuted tensor, in its own shape; groups that have no permutation stay."""
        unfolded = self.unfold(name, tensor)
        for place, (group, _) in enumerate(self.dims(name)):
            if group in permutations:
                unfolded = unfolded.index_select(place, permutations[group])
        return unfolded.reshape(tensor.shape)

    def holders(self) -> dict[str, list[tuple[str, int]]]:
        """Of each group, the tensors and their unfolded dimensions that it stands at."""
        found: dict[str, list[tuple[str, int]]] = {group: [] for group in self.groups}
        for name in self.axes:
            for place, (group, _) in enumerate(self.dims(name)):
                if group is not None:
                    found[group].append((name, place))
        return found


def specify(model: nn.Module, run: Callable[[nn.Module], Any], fixed: tuple[str, ...] = ()) -> Specification:
    """Follow the axes of parameters and buffers through ``run(model)``, one forward pass in evaluation mode.

    ``fixed``: patterns of names of tensors whose axes stay as they are. Raises :class:`InvalidInput` where nothing may be permuted.
    """
    state = {name: tensor for name, tensor in _state(model) if tensor.is_floating_point()}
    for pattern in fixed:
        if not any(matches(name, [pattern]) for name in state):
            raise InvalidInput(f"fixed: no tensor of the model is named '{pattern}'. Its first: {', '.join(list(state)[:5])}.")
    trace = AxisTrace(state)
    with torch.no_grad(), _recorded(model, trace) as outputs, trace:
        result = run(model)
    fix(*(axis for tensor in _outputs(result) for axis in trace.of(tensor)))
    for name, tensor in state.items():
        if id(tensor) not in trace.used or matches(name, fixed):
            fix(*trace.of(tensor))
    names: dict[Atom, str] = {}
    axes = {name: tuple(_factors(axis, names, f"{name}:{place}") for place, axis in enumerate(trace.of(state[name]))) for name in state}
    if not names:
        raise InvalidInput(
            "No units of this model can be permuted without changing what it computes. Operations that are not understood: "
            f"{', '.join(trace.unknown) or 'none'}. Merge such models without aligning them."
        )
    sizes = {group: atom.size for atom, group in names.items()}
    return Specification(axes, sizes, _features(trace, outputs, names), tuple(trace.unknown))


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by all their names: a tied one has several."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _factors(axis: tuple[Atom, ...], names: dict[Atom, str], place: str) -> Factors:
    """Neighbours that are fixed are one factor."""
    found: list[Factor] = []
    for atom in resolve(axis):
        if atom.fixed and found and found[-1][0] is None:
            found[-1] = (None, found[-1][1] * atom.size)
        elif atom.fixed:
            found.append((None, atom.size))
        else:
            name = place if place not in names.values() else f"{place}.{len(found)}"
            found.append((names.setdefault(atom, name), atom.size))
    return tuple(found)


@contextmanager
def _recorded(model: nn.Module, trace: AxisTrace) -> Iterator[dict[str, Tensor]]:
    """The last output of each module without children, in the order of their calls."""
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.pop(name, None)
                outputs[name] = output

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(record(name)) for name, module in leaves]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _features(trace: AxisTrace, outputs: Mapping[str, Tensor], names: dict[Atom, str]) -> dict[str, tuple[int, Factors]]:
    """For each distinct axis that holds a group, the module that shows it at most places; of several the last, behind its activation."""
    found: dict[Factors, tuple[str, int, int]] = {}
    for module, tensor in outputs.items():
        for place, axis in enumerate(trace.of(tensor)):
            atoms = resolve(axis)
            factors = tuple((names.get(atom) if not atom.fixed else None, atom.size) for atom in atoms)
            shown = any(group is not None for group, _ in factors)
            if shown and (factors not in found or tensor.numel() >= found[factors][2]):
                found[factors] = (module, place - tensor.dim(), tensor.numel())
    return {module: (place, factors) for factors, (module, place, _) in found.items()}


def _outputs(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _outputs(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _outputs(one)
