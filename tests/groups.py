"""Groups of tensors to merge: random, of any shape and dtype, with a method's surveys done."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.reuse.group import Group

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
    for survey in method.surveys(config):
        group = replace(group, surveyed=(*group.surveyed, survey(group, config)))
    if method.learn is not None:
        group = replace(group, learnt=learnt_for(name, group, config))
    return method.kernel(group, config)


def learnt_for(name: str, group: Group, config) -> Tensor:
    """What the method has learnt before its first step."""
    coefficients = torch.full((len(group.models),), config.coefficient)
    return torch.cat([coefficients, torch.ones(group.base.numel())]) if name.startswith("concrete") else coefficients


def models_for(name: str, wanted: int = 3) -> int:
    method = METHODS[name].function
    return max(method.least, min(wanted, method.most or wanted))
