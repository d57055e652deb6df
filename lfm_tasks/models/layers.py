"""Numbered layers: in a model, in the names of its tensors, and in the settings of its config."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from lfm_tasks.errors import IncompatibleModels

if TYPE_CHECKING:  # a merge without data imports no model classes
    from transformers import PreTrainedModel

COUNT = re.compile(r"(n|num)_(\w+_)?layers?$")
"""Settings that give a number of layers: num_hidden_layers, n_layer, …"""


def layer_lists(model: PreTrainedModel) -> list[tuple[str, nn.ModuleList]]:
    """By their names, the lists of as many modules as the config says that there are layers; of most models one."""
    count = model.config.num_hidden_layers
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count]


def numbered_layers(names: list[str]) -> tuple[str, dict[str, int]]:
    """What stands before the layers' numbers, and the number of each tensor that is in a layer.

    Layers are the numbered parts of the names that stand at one place in most of them (``model.layers.7.…``).
    """
    places = {name: match for name in names if (match := re.match(r"(.*?)\b(\d+)\b", name))}
    if not places:
        return "", {}
    prefix = Counter(match[1] for match in places.values()).most_common(1)[0][0]
    return prefix, {name: int(match[2]) for name, match in places.items() if match[1] == prefix}


def with_layers(name: str, config: Mapping[str, Any], count: int, chosen: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, Any]:
    """``config``, of a model of ``count`` layers, with the ``chosen`` ones: lists with an entry for each layer follow the layers,
    each of which is named by its model's config and its number there.

    Raises :class:`IncompatibleModels` where no setting, or more than one, gives the number of layers.
    """
    found = [key for key, value in config.items() if COUNT.match(key) and type(value) is int and value == count]
    if len(found) != 1:
        raise IncompatibleModels(
            f"{name} has {count} layers; settings in its config.json that say so: {', '.join(sorted(found)) or 'none'}. It must be one."
        )
    settings = dict(config) | {found[0]: len(chosen)}
    for key, value in config.items():
        if isinstance(value, list) and len(value) == count and "layer" in key:
            settings[key] = [theirs.get(key, value)[layer] for theirs, layer in chosen]
    return settings
