"""Groups of tensors to merge: random, of any shape and dtype, with a method's surveys done."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.reuse.group import Group
from lfm_tasks.reuse.methods.dare import draws

KEYS = tuple("abcdefgh")


def random_group(shape, models: int = 3, dtype=torch.float32, *, seed: int = 0, size: float = 0.1, name: str = "layer.weight") -> Group:
    """A base and fine-tunings of it; task vectors are ``size`` times as large."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    tuned = [base + size * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(models)]
    return Group(name, base.to(dtype), tuple(one.to(dtype) for one in tuned), KEYS[:models], dtype)


def merge(name: str, group: Group, **options) -> Tensor:
    """What the method makes of the group, as the engine would."""
    method, config = METHODS[name].function, METHODS[name].config_class(**options)
    if method.base == "ignored":
        group = replace(group, base=None)
    if method.statistics and group.statistics is None:
        group = replace(group, statistics=random_statistics(group, method.statistics))
    for survey in method.surveys(config):
        group = replace(group, surveyed=(*group.surveyed, survey(group, config)))
    if method.learn is not None and "coefficient" in METHODS[name].config_class.model_fields:
        group = replace(group, learnt=learnt_for(name, group, config))
    return method.kernel(group, config)


def learnt_for(name: str, group: Group, config) -> Tensor:
    """What the method has learnt before its first step."""
    coefficients = torch.full((len(group.models),), config.coefficient)
    return torch.cat([coefficients, torch.ones(group.base.numel())]) if name.startswith("concrete") else coefficients


def random_statistics(group: Group, kind: str) -> tuple[Tensor, ...] | None:
    """One for each model, keyed by the model's; only matrices have Gram matrices."""
    shape = group.models[0].shape
    if kind == "gram" and len(shape) != 2:
        return None
    found = []
    for key in group.keys:
        generator = torch.Generator().manual_seed(ord(key))
        if kind == "gram":
            inputs = torch.randn(2 * shape[1] + 1, shape[1], generator=generator)
            found.append(inputs.T @ inputs / len(inputs))
        else:
            found.append(torch.randn(shape, generator=generator).square())
    return tuple(found)


def uniform_draws(group: Group, model: int) -> Tensor:
    """DARE's random numbers for one model, from 0 to 1."""
    return (draws(group, model)(group.base.numel()).float() + 32768.5) / 65536


def models_for(name: str, wanted: int = 3) -> int:
    method = METHODS[name].function
    return max(method.least, min(wanted, method.most or wanted))
