"""Which parts of a model can be mixed, found from its structure alone."""

from __future__ import annotations

import re
from collections import defaultdict

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lfm_tasks.models.mixtures.smile import is_linear, width


def weight_of(layer: nn.Module, weight: Tensor) -> Tensor:
    """[..., out, in], however the layer keeps it."""
    return weight.transpose(-1, -2) if isinstance(layer, Conv1D) else weight


def feed_forwards(model: nn.Module) -> dict[str, list[str]]:
    """The modules that make up the feed-forward of each numbered block, by the block's name.

    Its layers are those from or to the block's widest inner width, which some layer leads into and another leads out of. The modules
    are the widest ones inside the block that hold no other linear layers: ``mlp`` of a Llama, ``intermediate`` and ``output`` of a
    BERT.
    """
    blocks: dict[str, dict[str, nn.Module]] = defaultdict(dict)
    for name, layer in model.named_modules():
        if is_linear(layer) and (block := re.match(r".*?\.\d+(?=\.)", f".{name}")):
            blocks[block[0][1:]][name] = layer
    found = {}
    for block, layers in blocks.items():
        sizes = {name: width(layer) for name, layer in layers.items()}
        inner = {i for i, o in sizes.values() if o < i} & {o for i, o in sizes.values() if i < o}
        if inner:
            ours = [name for name, size in sizes.items() if max(inner) in size]
            found[block] = list(dict.fromkeys(_widest(name, block, set(ours), set(sizes)) for name in ours))
    return found


def _widest(name: str, block: str, ours: set[str], every: set[str]) -> str:
    """The outermost module around the layer ``name`` whose linear layers are all ``ours``, inside the block."""
    parts = name.removeprefix(f"{block}.").split(".")
    for count in range(1, len(parts) + 1):
        outer = ".".join([block, *parts[:count]])
        if {one for one in every if f"{one}.".startswith(f"{outer}.")} <= ours:
            return outer
    return name
