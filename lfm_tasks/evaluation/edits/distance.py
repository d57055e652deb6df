"""How far an edited model's weights are from its base's."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel


def edit_distances(model: PreTrainedModel, base: Path) -> dict[str, float]:
    """||W - W0|| / ||W0|| (Frobenius) of every weight that differs, by its name; ``base`` is the base's directory."""
    weights, found = dict(model.named_parameters()), {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(set(file.keys()) & weights.keys()):
                before, after = file.get_tensor(name).float(), weights[name].detach().cpu().float()
                if before.shape == after.shape and not torch.equal(before, after):
                    found[name] = float((after - before).double().norm() / before.double().norm())
    return dict(sorted(found.items()))
