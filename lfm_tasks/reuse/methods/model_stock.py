"""Model Stock (Jang et al. 2024): how far to go from the base to the average, from the angle between the task vectors."""

from __future__ import annotations

import math
from itertools import combinations

from torch import Tensor

from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.methods.config import ModelStockConfig
from lfm_tasks.reuse.methods.gram import combination, gram


def model_stock(group: Group, options: ModelStockConfig) -> Tensor:
    """theta_0 + r * mean(tau), r = N cos / (1 + (N − 1) cos), for each tensor."""
    models = len(group.models)
    share = ratio(mean_cosine(gram(group, around_base=True), options.average), models)
    if options.clamp:
        share = min(1.0, max(0.0, share))
    return combination(group, [share / models] * models, around_base=True)


def mean_cosine(products: Tensor, average: str) -> float:
    """Over the pairs: the mean of the cosines, or the cosine of the mean angle. A task vector of zero is at a right angle to all."""
    cosines = []
    for a, b in combinations(range(len(products)), 2):
        lengths = float(products[a, a] * products[b, b]) ** 0.5
        cosines.append(max(-1.0, min(1.0, float(products[a, b]) / max(lengths, 1e-6))))
    if average == "angle":
        return math.cos(sum(map(math.acos, cosines)) / len(cosines))
    return sum(cosines) / len(cosines)


def ratio(cosine: float, models: int) -> float:
    """0, which keeps the base, where the estimate has no finite value."""
    divisor = 1 + (models - 1) * cosine
    return models * cosine / divisor if abs(divisor) >= 1e-6 else 0.0


MODEL_STOCK = MergeMethod(model_stock, base="required", least=2)
