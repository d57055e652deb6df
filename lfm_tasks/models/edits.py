"""Edits of a model as an artifact: the base by hash, and an ordered list of rounds of low-rank differences.

Weights = base + the sum of all rounds' differences in float32, cast once. So every version is got back exactly: nothing is ever
subtracted. An edit's directory is an adapter: what opens adapters opens it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lfm_tasks.errors import IncompatibleModels, InvalidInput
from lfm_tasks.models.saving import ADAPTER_WEIGHTS, save_lora

DESCRIPTION = "edits.json"
FORMAT = 1


@dataclass(frozen=True)
class LowRank:
    """A change of one weight: left @ right^T, in the layout W [out, in] whatever the file's."""

    name: str
    """Of the weight, in the model's state dict."""
    left: Tensor
    """[out, rank], float32."""
    right: Tensor
    """[in, rank], float32."""
    transposed: bool = False
    """The weight is stored as [in, out] (GPT-2's Conv1D)."""

    @property
    def stored(self) -> Tensor:
        """The change in the weight's own layout, float32."""
        return self.right @ self.left.T if self.transposed else self.left @ self.right.T


@dataclass(frozen=True)
class Round:
    """What one round of edits did."""

    facts: tuple[str, ...]
    """Ids of the facts that it wrote, in the order of the factors' columns where a method writes one column for each."""
    changes: tuple[LowRank, ...]
    note: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON that a person may want to see: guards, figures, what was quarantined."""


def save_edits(directory: Path, rounds: Sequence[Round]) -> None:
    """Beside it, :func:`~lfm_tasks.models.saving.write_entry` names the base."""
    tensors: dict[str, Tensor] = {}
    listed = []
    for place, one in enumerate(rounds):
        for change in one.changes:
            tensors[f"{place}.{change.name}.left"] = change.left.float().contiguous()
            tensors[f"{place}.{change.name}.right"] = change.right.float().contiguous()
        changes = [{"name": change.name, "transposed": change.transposed} for change in one.changes]
        listed.append({"facts": list(one.facts), "changes": changes, "note": dict(one.note)})
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    (directory / DESCRIPTION).write_text(json.dumps({"format": FORMAT, "rounds": listed}, indent=2, sort_keys=True) + "\n")


def is_edits(directory: Path) -> bool:
    return (directory / DESCRIPTION).is_file()


def read_edits(directory: Path) -> list[Round]:
    """Raises :class:`InvalidInput` for a format that this version does not know."""
    described = json.loads((directory / DESCRIPTION).read_text())
    if described["format"] != FORMAT:
        raise InvalidInput(f"The edits have format {described['format']}; this version reads {FORMAT}. Use the version that wrote them.")
    tensors = load_file(directory / ADAPTER_WEIGHTS)
    return [
        Round(
            tuple(one["facts"]),
            tuple(
                LowRank(
                    change["name"],
                    tensors[f"{place}.{change['name']}.left"],
                    tensors[f"{place}.{change['name']}.right"],
                    change["transposed"],
                )
                for change in one["changes"]
            ),
            one["note"],
        )
        for place, one in enumerate(described["rounds"])
    ]


def apply_edits(model: nn.Module, rounds: Iterable[Round], where: str = "The edits") -> nn.Module:
    """Add the sum of all changes to the model's weights, in float32, cast once.

    Raises :class:`IncompatibleModels` for a weight that the model lacks or has in another shape; then nothing is changed.
    """
    weights, totals = dict(model.named_parameters()), {}
    for change in [change for one in rounds for change in one.changes]:
        shape = list(change.stored.shape) if change.name not in totals else list(totals[change.name].shape)
        if change.name not in weights or list(weights[change.name].shape) != shape:
            raise IncompatibleModels(f"{where} change the weight '{change.name}' {shape}, which the base does not have.")
        before = totals.get(change.name, weights[change.name].detach().float())
        totals[change.name] = before + change.stored.to(before.device)
    with torch.no_grad():
        for name, total in totals.items():
            weights[name].copy_(total)
    return model


def save_as_lora(rounds: Iterable[Round], directory: Path, *, method: str, base_sha256: str) -> None:
    """The sum of all changes as a LoRA adapter that peft opens: B = the left factors side by side, A = the right ones', scale 1."""
    from peft import LoraConfig

    changes: dict[str, list[LowRank]] = {}
    for change in [change for one in rounds for change in one.changes]:
        changes.setdefault(change.name.removesuffix(".weight"), []).append(change)
    tensors, ranks = {}, {}
    for module, several in changes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.cat([change.right for change in several], 1).T
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.cat([change.left for change in several], 1)
        ranks[module] = tensors[f"base_model.model.{module}.lora_B.weight"].shape[1]
    largest = max(ranks.values(), default=1)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=sorted(ranks),
        r=largest,
        lora_alpha=largest,
        rank_pattern=ranks,
        alpha_pattern=ranks,
        fan_in_fan_out=any(several[0].transposed for several in changes.values()),
    )
    save_lora(tensors, config, directory, method=method, base_sha256=base_sha256, task="causal_lm")
