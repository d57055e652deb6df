"""Task arithmetic (and negation, by a negative scale), LiNeS, ExPO."""

from __future__ import annotations

from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import ExpoConfig, LinesConfig, TaskArithmeticConfig
from lfm_tasks.reuse.methods.task_vectors import merge_task_vectors


def task_arithmetic(group: Group, options: TaskArithmeticConfig) -> Tensor:
    """theta_0 + scale * sum_i w_i tau_i (Ilharco et al. 2023)."""
    return merge_task_vectors(group, options.weights_of(len(group.models)), options.scale)


def lines(group: Group, options: LinesConfig) -> Tensor:
    """Task arithmetic whose scale goes linearly from ``shallow`` to ``deep`` over the layers (Wang et al. 2025)."""
    scale = (1 - group.depth) * options.shallow + group.depth * options.deep
    return merge_task_vectors(group, options.weights_of(len(group.models)), scale)


def expo(group: Group, options: ExpoConfig) -> Tensor:
    """theta_1 + alpha * tau_1: on beyond the model, away from the base (Zheng et al. 2024)."""
    return merge_task_vectors(group, [1.0], 1 + options.alpha)


TASK_ARITHMETIC = MergeMethod(task_arithmetic, base="required")
LINES = MergeMethod(lines, base="required")
EXPO = MergeMethod(expo, base="required", most=1)
