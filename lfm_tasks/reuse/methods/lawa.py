"""LAWA, latest weight averaging (Kaddour 2022; Sanyal et al. 2023): the average of the last checkpoints of one training."""

from __future__ import annotations

from torch import Tensor

from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import LawaConfig
from lfm_tasks.reuse.methods.linear import weighted_sum


def lawa(group: Group, options: LawaConfig) -> Tensor:
    return weighted_sum(group, averaging_weights(options, len(group.models)))


def averaging_weights(options: LawaConfig, checkpoints: int) -> list[float]:
    """One for each checkpoint, earliest first; they sum to 1, and are 0 outside of the window of the last k.

    uniform: 1/k. exponential: those of a_1 = theta_1, a_i = d a_(i-1) + (1 - d) theta_i over the window, that is d^(k-1) for the first
    and (1 - d) d^(k-i) for each other. Raises :class:`ConfigError` for a window that is longer than what was given.
    """
    last = options.last or checkpoints
    if last > checkpoints:
        raise ConfigError(f"last={last}: only {checkpoints} checkpoints were given. Give more, or set last to at most {checkpoints}.")
    if options.window == "uniform":
        weights = [1 / last] * last
    else:
        decay = options.decay
        weights = [decay ** (last - 1)] + [(1 - decay) * decay ** (last - i) for i in range(2, last + 1)]
    return [0.0] * (checkpoints - last) + weights


LAWA = MergeMethod(lawa, base="ignored")
