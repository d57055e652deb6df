"""GRACE (Hartvigsen et al. 2023, arXiv 2211.11031): a codebook of keys with radii at one layer; a token inside a radius gets its value.

What is stored is the log of the edits. Keys and radii follow from it by replaying it, so taking out any edit, not only the last, gives
the codebook as if it had never been made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.placed import Placed
from lfm_tasks.models.memories.rows import check_width, without_row
from lfm_tasks.models.memories.texts import unpacked

INSIDE = 1 - 1e-5
"""Of half the way between two keys: as far as the older one may reach."""


@dataclass(frozen=True)
class Codebook:
    keys: Tensor
    """[entries, in]"""
    radii: Tensor
    """[entries]; negative for a key that a later edit of the very same key has put out of use"""
    entry: list[int]
    """Of each edit."""

    @property
    def writers(self) -> list[int]:
        """The last edit of each entry: the one whose value it has."""
        last = {entry: edit for edit, entry in enumerate(self.entry)}
        return [last[entry] for entry in range(len(self.keys))]

    def to(self, device: torch.device) -> Codebook:
        return Codebook(self.keys.to(device), self.radii.to(device), self.entry)


def replay(queries: Tensor, labels: Sequence[str], first: Tensor) -> Codebook:
    """The codebook after edits with ``queries`` [edits, in], ``labels`` and radii ``first`` [edits] of a new key.

    Far from all (farther than ``first`` + the nearest key's radius): a new key. Near a key of the same label: that key's radius grows to
    reach it. Near a key of another label: a new key, and both reach half the way between them at the most.
    """
    places: list[int] = []
    radii: list[float] = []
    entry: list[int] = []
    for edit, label in enumerate(labels):
        distances = [
            (queries[place] - queries[edit]).norm().item() if radius >= 0 else torch.inf
            for place, radius in zip(places, radii, strict=True)
        ]
        nearest = min(range(len(places)), key=distances.__getitem__, default=None)
        far = nearest is None or distances[nearest] > first[edit].item() + radii[nearest]
        if not far and labels[places[nearest]] == label:
            radii[nearest] = max(radii[nearest], distances[nearest] / INSIDE)
            entry.append(nearest)
            continue
        radius = first[edit].item()
        if not far:
            half = distances[nearest] / 2
            radii[nearest] = min(radii[nearest], half * INSIDE) if half else -1.0
            radius = min(radius, half) if half else radius
        entry.append(len(places))
        places.append(edit)
        radii.append(radius)
    return Codebook(queries[places], torch.tensor(radii), entry)


def look_up(codebook: Codebook, x: Tensor) -> tuple[Tensor, Tensor]:
    """For ``x`` [..., in] the nearest entry [...] and whether ``x`` is inside its radius [...].

    Distances are computed without a matrix product: a key's own distance is 0, and a row's is the same alone and in a batch.
    """
    distances = torch.cdist(x.float(), codebook.keys, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, entry = distances.masked_fill(codebook.radii < 0, torch.inf).min(-1)
    return entry, nearest <= codebook.radii[entry]


def respond(codebook: Codebook, values: Tensor, x: Tensor, output: Tensor) -> Tensor:
    """``output`` [..., out], and ``values`` [entries, out] in the place of it where ``x`` [..., in] is inside a radius."""
    entry, inside = look_up(codebook, x)
    return torch.where(inside.unsqueeze(-1), values[entry].to(output.dtype), output)


def read(tensors: Mapping[str, Tensor]) -> tuple[Codebook, Tensor]:
    """The codebook and the values of its entries."""
    codebook = replay(tensors["queries"], unpacked("labels", tensors), tensors["first"])
    return codebook, tensors["values"][codebook.writers]


def install(model: PreTrainedModel, memory: Memory, tokenizer: PreTrainedTokenizerBase) -> RemovableHandle:
    site = Decoder(model).site(int(memory.tensors["layer"]))
    check_width(memory.tensors, "queries", site.matrix.shape[1], f"{site.name}")
    codebook, values = read(memory.tensors)
    placed = Placed(codebook.keys, codebook.radii, values)

    def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys, radii, here = placed.on(output.device)
        return respond(Codebook(keys, radii, codebook.entry), here, given[0], output) if len(here) else output

    return site.module.register_forward_hook(hook)


def forget(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    return without_row(tensors, place, ("queries", "values", "first"), ("ids", "labels"))
