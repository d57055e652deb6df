"""Check everything that can be checked before the first weight is read, and say all of it at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.reuse.checkpoint import Checkpoint, TensorInfo, depths
from lfm_tasks.reuse.config import matches
from lfm_tasks.reuse.group import Roles

SHOWN = 20
"""Most problems that a message lists."""


@dataclass(frozen=True)
class Planned:
    """One tensor of the result; ``merged`` False: it is copied from the donor."""

    name: str
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    depth: float
    merged: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def plan(
    base: Checkpoint | None,
    models: Sequence[Checkpoint],
    method: Roles,
    keep: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    room: Path | None = None,
    filters: Sequence[str] = (),
) -> list[Planned]:
    """The tensors of the result in the files of the donor: the base, or without one the first model.

    ``keep``: patterns of names that are copied from the donor; ``filters``: patterns that must fit some name. Raises
    :class:`IncompatibleModels` that lists every problem: the number of models, a base that is absent, names, shapes,
    vocabularies, integers that differ, too little room on the disk of ``room``.
    """
    donor = base or models[0]
    problems = _roles(base, models, method)
    others = [model for model in [*([base] if base else []), *models] if model is not donor]
    problems += _unmatched("keep", keep, donor) + _unmatched("filters", filters, donor)
    merged = {name for name, info in donor.tensors.items() if info.dtype.is_floating_point and not matches(name, keep)}
    compared = {name for name in donor.tensors if not matches(name, keep)}
    for other in others:
        problems += _differences(donor, other, compared, keep) + _vocabulary(donor, other)
    place = depths(list(donor.tensors))
    planned = [_planned(name, info, place[name], name in merged, dtype) for name, info in donor.tensors.items()]
    if not merged:
        problems.append("keep: it leaves no tensor to merge. Name fewer.")
    if room is not None and (need := sum(one.size for one in planned)) > (free := shutil.disk_usage(room).free):
        problems.append(
            f"The result has {need:,} bytes; the disk of {room} has {free:,} left. Free space, or set LFM_HOME to another disk."
        )
    if problems:
        more = f" … and {len(problems) - SHOWN} more." if len(problems) > SHOWN else ""
        raise IncompatibleModels(f"The models cannot be merged; nothing was read. {' '.join(problems[:SHOWN])}{more}")
    return planned


def _planned(name: str, info: TensorInfo, depth: float, merged: bool, dtype: torch.dtype | None) -> Planned:
    cast = dtype if dtype is not None and info.dtype.is_floating_point else info.dtype
    return Planned(name, info.file, cast, info.shape, depth, merged)


def _roles(base: Checkpoint | None, models: Sequence[Checkpoint], method: Roles) -> list[str]:
    problems = []
    if method.base == "required" and base is None:
        problems.append("The method works on differences from a base, and none was given. Give the input 'base'.")
    if not method.takes(len(models)):
        allowed = (
            f"{method.least}"
            if method.least == method.most
            else f"{method.least} to {method.most}"
            if method.most
            else f"{method.least} or more"
        )
        problems.append(f"The method takes {allowed} of the input 'models', beside the base; {len(models)} were given.")
    return problems


def _unmatched(field: str, patterns: Sequence[str], donor: Checkpoint) -> list[str]:
    absent = [pattern for pattern in patterns if not any(matches(name, [pattern]) for name in donor.tensors)]
    return [f"{field}: no tensor of {donor.name} is named '{pattern}'." for pattern in absent]


def _differences(donor: Checkpoint, other: Checkpoint, compared: set[str], keep: Sequence[str]) -> list[str]:
    problems = []
    for name in sorted(compared):
        mine, theirs = donor.tensors[name], other.tensors.get(name)
        if theirs is None:
            problems.append(f"{other.name} lacks {name}, which {donor.name} has.")
        elif mine.shape != theirs.shape:
            problems.append(f"{name} is {list(mine.shape)} in {donor.name} and {list(theirs.shape)} in {other.name}.")
        elif mine.dtype.is_floating_point != theirs.dtype.is_floating_point:
            problems.append(f"{name} is {mine.dtype} in {donor.name} and {theirs.dtype} in {other.name}.")
        elif not mine.dtype.is_floating_point and not torch.equal(donor.read(name), other.read(name)):
            problems.append(f"{name} holds integers that differ between {donor.name} and {other.name}.")
    extra = sorted(name for name in other.tensors if name not in donor.tensors and not matches(name, keep))
    problems += [f"{other.name} has {name}, which {donor.name} lacks." for name in extra]
    if problems:
        problems.append(
            "Give keep the names (with * for any text) that are to be taken from the base, or from the first model without one."
        )
    return problems


def _vocabulary(donor: Checkpoint, other: Checkpoint) -> list[str]:
    mine, theirs = donor.vocabulary, other.vocabulary
    if mine is None or theirs is None or mine == theirs:
        return []
    differ = sum(1 for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token))
    return [f"The vocabularies of {donor.name} and {other.name} differ in {differ:,} tokens. Set vocabulary to base or union."]
