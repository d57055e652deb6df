"""Statistics of the models that are merged: one for each, checked to be of that model and to fit its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.statistics import Statistics, read_statistics
from lfm_tasks.reuse.blocks import check_finite
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.plan import SHOWN, Planned
from lfm_tasks.step import Input


@dataclass(frozen=True)
class ModelStatistics:
    """By the names of the merged tensors; of a model that has the merged one below ``prefix``."""

    found: Statistics
    prefix: str

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.found.tensors

    def input_axis(self, name: str) -> int:
        return self.found.tensors[self.prefix + name].get("input_axis", 1)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.found.shape(self.prefix + name)

    def read(self, name: str) -> Tensor:
        """Raises :class:`~lfm_tasks.errors.InvalidInput` for NaN and infinity."""
        tensor = self.found.read(self.prefix + name)
        check_finite(tensor, f"{self.found.reference}: the statistics of {name} hold NaN or infinity. Gather them again.")
        return tensor


def open_statistics(
    method: str, kind: str | None, given: Sequence[Input], models: Sequence[Checkpoint], planned: Sequence[Planned]
) -> list[ModelStatistics]:
    """Of every model, in their order; ``kind`` is what ``method`` takes.

    Raises :class:`ConfigError` for too few or too many, :class:`IncompatibleModels` that lists every other problem.
    """
    if kind is None and given:
        raise ConfigError(f"The method {method} uses no statistics. Leave the input 'statistics' out.")
    if kind is None:
        return []
    if len(given) != len(models):
        raise ConfigError(
            f"The method {method} takes statistics of the kind {kind} of each model; {len(given)} of the input 'statistics' were given for "
            f"{len(models)} models. Run the step 'statistics' with method={kind} on each model, and give the results in the models' order."
        )
    read = [read_statistics(one) for one in given]
    problems = [problem for one, model in zip(read, models, strict=True) for problem in _wrong(one, kind, model)]
    found = [ModelStatistics(one, getattr(model, "prefix", "")) for one, model in zip(read, models, strict=True)]
    if not problems:
        problems = _misfits(found, kind, [one for one in planned if one.merged])
    if problems:
        raise IncompatibleModels(
            f"The statistics do not fit the models; nothing was read. {' '.join(problems[:SHOWN])} "
            "Give those of each model, in the models' order."
        )
    return found


def _wrong(found: Statistics, kind: str, model: Checkpoint) -> list[str]:
    problems = []
    if found.kind != kind:
        problems.append(f"{found.reference} is of the kind {found.kind}, not {kind}.")
    if found.description["model"] != model.key:
        problems.append(f"{found.reference} was made from sha256:{found.description['model']}, not from {model.name} (sha256:{model.key}).")
    return problems


def _misfits(found: Sequence[ModelStatistics], kind: str, merged: Sequence[Planned]) -> list[str]:
    problems, covered = [], 0
    for one in merged:
        have = [statistics.found.reference for statistics in found if one.name in statistics]
        lack = [statistics.found.reference for statistics in found if one.name not in statistics]
        covered += bool(have)
        if have and lack:
            problems.append(f"{one.name} is in {have[0]} and not in {lack[0]}.")
            continue
        for statistics in found if have else ():
            wanted = (one.shape[statistics.input_axis(one.name)],) * 2 if kind == "gram" else one.shape
            if (shape := statistics.shape(one.name)) != wanted:
                problems.append(f"{one.name} is {list(shape)} in {statistics.found.reference}; a {kind} of it is {list(wanted)}.")
    return problems if covered else ["They name no tensor that is merged."]
