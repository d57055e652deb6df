"""Make a plain model the mixture that a directory describes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from lfm_tasks.errors import IncompatibleModels, unknown_name
from lfm_tasks.models.mixtures import smile
from lfm_tasks.models.mixtures.files import expert_tensors, mixed_modules, read_description

KINDS: dict[str, ModuleType] = {"smile": smile}
"""Each has ``layout(model, description)`` and ``install(model, description, tensors, places)``."""


def install_experts(model: nn.Module, directory: Path, *, dtype: torch.dtype = torch.float32, backbone: bool = False) -> nn.Module:
    """``model`` holds the mixture's base, or has it below a head; ``backbone``: what is mixed above the backbone is left out.

    Raises :class:`IncompatibleModels` where a name or a shape does not fit, and for a method that this version does not know.
    """
    description = read_description(directory)
    if description.method not in KINDS:
        raise IncompatibleModels(f"{unknown_name('kind of mixture', description.method, KINDS)} Mix the models again.")
    kind, places = KINDS[description.method], mixed_modules(model, description, backbone)
    without = description.modules.keys() - places.keys()
    tensors = expert_tensors(directory, kind.layout(model, description, places), dtype, without)
    kind.install(model, description, tensors, places)
    return model.eval()
