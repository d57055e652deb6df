"""Follow the axes of every tensor through one forward pass: what may be permuted is read off the operations, not off names.

Every operation that a model runs comes by as one of a few ATen operations, each of which ties axes together (a sum, a
contraction), cuts them (a view) or fixes them (a slice, a table that is looked up). An operation without a rule fixes all axes
that go into it, so a model that does something unknown is aligned less, never wrongly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lfm_tasks.reuse.alignment.axes import Axis, cut, fix, new_axis, unite

Labels = list[Axis]
"""An axis for each dimension of a tensor."""
Rule = Callable[["AxisTrace", Any, tuple, dict], Labels]
"""``(trace, result, arguments, keywords) -> labels`` of the result, or of its first tensor."""
RULES: dict[str, Rule] = {}


class AxisTrace(TorchDispatchMode):
    """Inside it, tensors get labels. ``state`` are the tensors that may be permuted, by name; all others are fixed."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._labels: dict[int, tuple[Tensor, Labels]] = {}
        self.unknown: Counter[str] = Counter()
        """Operations without a rule that fixed something."""
        self.used: set[int] = set()
        for tensor in state.values():
            self.set(tensor, [new_axis(size) for size in tensor.shape])

    def of(self, tensor: Tensor) -> Labels:
        """Its labels; those of a tensor that came from nowhere (an input, a mask) are fixed."""
        self.used.add(id(tensor))
        if id(tensor) not in self._labels:
            self.set(tensor, [new_axis(size, fixed=True) for size in tensor.shape])
        return self._labels[id(tensor)][1]

    def set(self, tensor: Tensor, labels: Labels) -> None:
        """The tensor is kept, so that no other gets its id."""
        self._labels[id(tensor)] = (tensor, labels)

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: tuple = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        result = operation(*arguments, **keywords)
        first = result if isinstance(result, Tensor) else next(iter(_tensors(result)), None)
        name = str(operation.overloadpacket).removeprefix("aten.")
        rule = RULES.get(name) or (_elementwise if torch.Tag.pointwise in operation.tags else None)
        if rule is not None and first is not None:
            self.set(first, rule(self, result, arguments, keywords))
        elif fix(*(axis for tensor in _tensors((arguments, keywords)) for axis in self.of(tensor))):
            self.unknown[name] += 1
        return result


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return add


@_rule("clone", "_to_copy", "detach", "alias", "lift_fresh", "copy_", "_softmax", "_log_softmax", "contiguous")
def _elementwise(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    """Broadcasting from the right: dimensions of the result's size run in step. A softmax does not mind an order either."""
    found: list[Axis | None] = [None] * result.dim()
    for tensor in _tensors((arguments, keywords)):
        for place, axis in enumerate(trace.of(tensor), start=result.dim() - tensor.dim()):
            if tensor.shape[place - result.dim()] == result.shape[place] != 1:
                if found[place] is not None:
                    unite(found[place], axis)
                found[place] = axis
    return [axis or () for axis in found]


@_rule("t", "transpose", "permute")
def _transposed(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    labels = list(trace.of(arguments[0]))
    if len(arguments) == 1:
        return labels[::-1]
    if len(arguments) == 2:
        return [labels[place] for place in arguments[1]]
    a, b = arguments[1:]
    labels[a], labels[b] = labels[b], labels[a]
    return labels


@_rule("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze")
def _viewed(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    return cut(tuple(atom for axis in trace.of(arguments[0]) for atom in axis), result.shape)


@_rule("expand")
def _expanded(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    """What is repeated may be repeated in any order."""
    given = arguments[0]
    labels = [new_axis(size) for size in result.shape]
    for place, axis in enumerate(trace.of(given), start=result.dim() - given.dim()):
        if given.shape[place - result.dim()] == result.shape[place]:
            labels[place] = axis
    return labels


@_rule("mm", "bmm")
def _product(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    a, b = (trace.of(tensor) for tensor in arguments[:2])
    unite(a[-1], b[-2])
    if result.dim() == 3:
        unite(a[0], b[0])
    return [*a[:-1], b[-1]]


@_rule("addmm", "baddbmm")
def _product_and_bias(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    labels = _product(trace, result, arguments[1:], keywords)
    trace.set(result, labels)
    return _elementwise(trace, result, (arguments[0], result), {})


@_rule("convolution")
def _convolved(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    """Channels as in a product; kernels and positions are fixed. A depthwise convolution keeps its channels, other groups are fixed."""
    given, weight, bias = arguments[:3]
    transposed, groups = arguments[6], arguments[8]
    x, w = trace.of(given), trace.of(weight)
    fix(*x[2:], *w[2:])
    if groups == 1:
        incoming, channels = (w[0], w[1]) if transposed else (w[1], w[0])
        unite(x[1], incoming)
    elif groups == given.shape[1] == result.shape[1] and not transposed:
        unite(x[1], w[0])
        channels = w[0]
    else:
        fix(x[1], w[0], w[1])
        channels = new_axis(result.shape[1], fixed=True)
    if bias is not None:
        unite(channels, trace.of(bias)[0])
    return [x[0], channels, *(new_axis(size, fixed=True) for size in result.shape[2:])]


@_rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm")
def _batch_normed(trace: AxisTrace, result: Any, arguments: tuple, keywords: dict) -> Labels:
    labels = trace.of(arguments[0])
    for tensor in _tensors(arguments[1:5]):
        unite(labels[1], trace.of(tensor)[0])
    return labels


@_rule("native_layer_norm", "_fused_rms_norm")
def _layer_normed(trace: AxisTrace, result: Any, arguments: tuple, keywords: dict) -> Labels:
    labels = trace.of(arguments[0])
    for tensor in _tensors(arguments[2:4]):
        for axis, other in zip(reversed(labels), reversed(trace.of(tensor)), strict=False):
            unite(axis, other)
    return labels


@_rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "logsumexp")
def _reduced(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    given = arguments[0]
    labels = trace.of(given)
    if result.dim() == given.dim():
        return [axis if kept == size else () for axis, size, kept in zip(labels, given.shape, result.shape, strict=True)]
    if result.dim() == 0:
        return []
    over = arguments[2] if len(arguments) > 2 and isinstance(arguments[1], int | float) else arguments[1]
    gone = {place % given.dim() for place in ([over] if isinstance(over, int) else over)}
    return [axis for place, axis in enumerate(labels) if place not in gone]


@_rule("embedding")
def _looked_up(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    weight, places = (trace.of(tensor) for tensor in arguments[:2])
    fix(weight[0])
    return [*places, weight[1]]


@_rule("select")
def _selected(trace: AxisTrace, result: Tensor, arguments: tuple, keywords: dict) -> Labels:
    labels = list(trace.of(arguments[0]))
    fix(labels.pop(arguments[1]))
    return labels


@_rule("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d")
def _pooled(trace: AxisTrace, result: Any, arguments: tuple, keywords: dict) -> Labels:
    fix(*trace.of(arguments[0])[-2:])
    return _resized(trace, result, arguments, keywords)


@_rule("slice", "constant_pad_nd", "cat")
def _resized(trace: AxisTrace, result: Any, arguments: tuple, keywords: dict) -> Labels:
    """A dimension whose size changes is fixed, before and after; the others stay."""
    first = result if isinstance(result, Tensor) else result[0]
    given = [tensor for tensor in _tensors(arguments) if tensor.dim() == first.dim()]
    labels: Labels = []
    for place, size in enumerate(first.shape):
        axes = [trace.of(tensor)[place] for tensor in given]
        if all(tensor.shape[place] == size for tensor in given):
            for axis in axes[1:]:
                unite(axes[0], axis)
            labels.append(axes[0])
        else:
            fix(*axes)
            labels.append(new_axis(size, fixed=True))
    return labels


@_rule("split", "split_with_sizes", "chunk", "unbind")
def _parts(trace: AxisTrace, result: Any, arguments: tuple, keywords: dict) -> Labels:
    """Equal parts of one dimension run in step, as query, key and value do."""
    given, labels = arguments[0], list(trace.of(arguments[0]))
    place = next((p for p in range(given.dim()) if given.shape[p] != result[0].shape[p]), None) if result[0].dim() == given.dim() else None
    if place is None or len({part.shape for part in result}) > 1:
        fix(*labels)
        for part in result:
            trace.set(part, [new_axis(size, fixed=True) for size in part.shape])
        return trace.of(result[0])
    outer, labels[place] = cut(labels[place], [len(result), result[0].shape[place]])
    fix(outer)
    for part in result:
        trace.set(part, list(labels))
    return labels
