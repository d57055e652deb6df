"""What was written is what was trained: the logits of both on a few rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lfm_tasks.errors import IntegrityError
from lfm_tasks.training.split import Split

PROBES, PROBE_TOKENS = 4, 64
TOLERANCE = 1e-3
"""Largest difference of a logit that merging and saving may make, as a share of the largest logit."""


def probe(split: Split) -> list[np.ndarray]:
    """The rows that are compared on."""
    return [ids[:PROBE_TOKENS] for ids in split.tokens[:PROBES]]


def probe_logits(model: nn.Module, probe: list[np.ndarray]) -> list[Tensor]:
    """Logits of each row of ids, one forward pass a row."""
    with torch.inference_mode():
        return [model(input_ids=torch.from_numpy(ids)[None]).logits[0].float() for ids in probe]


def check_same(expected: list[Tensor], found: list[Tensor], what: str) -> float:
    """Largest absolute difference. Raises :class:`IntegrityError` beyond the tolerance."""
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    scale = max(1.0, *(float(a.abs().max()) for a in expected))
    if not difference <= TOLERANCE * scale:
        raise IntegrityError(
            f"{what} gives logits that differ by {difference:.3g} from the model in memory; at most {TOLERANCE * scale:.3g} is rounding. "
            "The save is not used; run the step again, and report it if it happens again."
        )
    return difference
