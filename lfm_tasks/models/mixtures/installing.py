"""Make a plain model the mixture that a directory describes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from lfm_tasks.errors import ConfigError, IncompatibleModels, unknown_name
from lfm_tasks.models.mixtures import pareto, smile, wemoe
from lfm_tasks.models.mixtures.files import Description, base_tensors, expert_tensors, mixed_modules, read_description
from lfm_tasks.models.mixtures.task_vectors import combined, read_task_vectors

KINDS: dict[str, ModuleType] = {"smile": smile, "wemoe": wemoe, "e_wemoe": wemoe, "pareto_moe": pareto}
"""Each has ``layout(model, description, places)`` and ``install(model, description, tensors, places)``, and ``static_weights`` where
some of its mixtures are one set of weights."""


def install_experts(model: nn.Module, directory: Path, *, dtype: torch.dtype = torch.float32, backbone: bool = False) -> nn.Module:
    """``model`` holds the mixture's base, or has it below a head; ``backbone``: what is mixed above the backbone is left out.

    Raises :class:`IncompatibleModels` where a name or a shape does not fit, and for a method that this version does not know.
    """
    description = read_description(directory)
    kind, places = kind_of(description), mixed_modules(model, description, backbone)
    without = description.modules.keys() - places.keys()
    tensors = expert_tensors(directory, kind.layout(model, description, places), dtype, without)
    kind.install(model, description, tensors, places)
    return model.eval()


def kind_of(description: Description) -> ModuleType:
    if description.method not in KINDS:
        raise IncompatibleModels(f"{unknown_name('kind of mixture', description.method, KINDS)} Mix the models again.")
    return KINDS[description.method]


def unloaded(skeleton: nn.Module, directory: Path, preference: list[float]) -> dict[str, Tensor]:
    """The tensors of the plain model that the mixture is, by their names in ``skeleton`` (the base's architecture).

    Raises :class:`ConfigError` where no single set of weights does what the mixture does.
    """
    description = read_description(directory)
    kind, places, base = kind_of(description), mixed_modules(skeleton, description), base_tensors(directory)
    if not hasattr(kind, "static_weights"):
        raise ConfigError(f"A mixture of {description.method} decides for every token, so no single set of weights does what it does.")
    tensors = expert_tensors(directory, kind.layout(skeleton, description, places), torch.float32)
    for name, weights in kind.static_weights(description, tensors, preference).items():
        for part, _ in skeleton.get_submodule(places[name]).named_parameters():
            own = base[f"{name}.{part}"]
            task_vectors = read_task_vectors(tensors, f"{name}.{part}", own.shape)
            base[f"{name}.{part}"] = combined(own.float(), task_vectors, weights).to(own.dtype)
    return base
