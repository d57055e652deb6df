"""Pareto MoE (Tang et al. 2024, arXiv 2406.09770): weights that are a function of how much each task matters, not of the input."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.mixtures import task_vectors as vectors
from lfm_tasks.models.mixtures.files import Description
from lfm_tasks.models.mixtures.task_vectors import combined


def layout(model: nn.Module, description: Description, places: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    routers = vectors.router_layout(dict.fromkeys(places, description.experts), description)
    return vectors.task_vector_layout(model, description, places) | routers


def install(model: nn.Module, description: Description, tensors: Mapping[str, Tensor], places: Mapping[str, str]) -> None:
    """The plain model of the preference that the mixture was made with; it costs what one model costs."""
    weights = static_weights(description, tensors, [])
    with torch.no_grad():
        for name, place in places.items():
            for part, parameter in model.get_submodule(place).named_parameters():
                parameter.copy_(combined(parameter, tensors[f"{name}.{part}"], weights[name].to(parameter.dtype)))


def static_weights(description: Description, tensors: Mapping[str, Tensor], preference: list[float]) -> dict[str, Tensor]:
    """Weights [experts] of each module at ``preference``, or at the mixture's own."""
    wanted = checked_preference(preference or description.options["preference"], description.experts)
    routers = vectors.read_routers(tensors, dict.fromkeys(description.modules, description.experts), description)
    with torch.no_grad():
        return {name: router(torch.tensor(wanted)) for name, router in routers.items()}


def checked_preference(preference: list[float], tasks: int) -> list[float]:
    """None means that all matter the same. Raises :class:`ConfigError` unless it is a share for each task."""
    if not preference:
        return [1 / tasks] * tasks
    if len(preference) != tasks or min(preference) < 0 or abs(sum(preference) - 1) > 1e-6:
        raise ConfigError(f"preference {preference}: give {tasks} numbers of at least 0 that sum to 1, one for each model in their order.")
    return preference
