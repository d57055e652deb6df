"""Methods whose teacher cuts text into other tokens than the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.distillation.across.losses import chunk_log_likelihoods, likelihood_matching, shared_and_rest, sorted_distance
from lfm_tasks.distillation.divergences import forward_kl, log_probabilities, scaled
from lfm_tasks.distillation.figures_of_tokens import loss_at_targets
from lfm_tasks.distillation.objective import Setting
from lfm_tasks.distillation.teachers import LogitTeacher
from lfm_tasks.errors import ConfigError
from lfm_tasks.models.heads import has_plain_head
from lfm_tasks.training.batches import Batch, padded_batch
from lfm_tasks.training.objectives import CrossEntropy, to_device


@dataclass(frozen=True)
class AcrossMethod:
    """``chunks``: which chunks' likelihoods are matched, all, those of more than a token, or none. ``places``: which targets'
    distributions are compared: those that begin a chunk, over the shared tokens; the i-th of each side, by rank; or none."""

    chunks: str
    places: str

    def objective(self, setting: Setting) -> AcrossDistillation:
        """Raises :class:`ConfigError` for what a teacher of other tokens cannot do."""
        if setting.writing is not None:
            raise ConfigError(f"{setting.config.method} learns from given texts: set on_policy=0 and on_policy_schedule=constant.")
        if setting.across is None and setting.config.alpha:
            raise ConfigError(f"{setting.config.method} needs the data set in the teacher's tokens as well: give teacher_dataset.")
        return AcrossDistillation(self, setting)


ALM = AcrossMethod(chunks="all", places="none")
ULD = AcrossMethod(chunks="none", places="ranks")
HYBRID = AcrossMethod(chunks="longer", places="shared")


class AcrossDistillation(CrossEntropy):
    """alpha times the distance from the teacher, and 1 - alpha times cross-entropy with the labels; sums over the targets of a pass."""

    def __init__(self, method: AcrossMethod, setting: Setting) -> None:
        super().__init__(labels=False)
        self.method, self.setting, self.config = method, setting, setting.config
        self.options: Any = setting.config.method_config()
        self.teachers: list[LogitTeacher] = list(setting.sources)
        self.plain = has_plain_head(setting.student)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        asked = [_Asked(self, teacher, batch) for teacher in self.teachers if self.config.alpha]

        def figures(logits: Tensor, rows: slice) -> Tensor:
            """[n, 1 + teachers]: log-probability of the target, and the distance of the distributions there from each teacher's."""
            losses = functional.cross_entropy(logits.float(), batch.targets[rows], reduction="none")
            return torch.stack([-losses, *(one.distances(logits, rows) for one in asked)], -1)

        def loss(found: Tensor) -> Tensor:
            far = [one.chunks(found[:, 0]) + found[:, 1 + place].sum() for place, one in enumerate(asked)]
            taught = torch.stack(far).mean() if far else found.new_zeros(())
            return self.config.alpha * taught - (1 - self.config.alpha) * found[:, 0].sum()

        return loss_at_targets(model, batch, figures, loss, plain=self.plain)


class _Asked:
    """What one teacher said of the rows of a batch, in its own tokens."""

    def __init__(self, objective: AcrossDistillation, teacher: LogitTeacher, batch: Batch) -> None:
        self.method, self.config, self.options = objective.method, objective.config, objective.options
        across = objective.setting.across
        self.pairs = [across.pairs[example] for example in batch.examples]
        device = batch.targets.device
        self.shared = [one.to(device) for one in across.shared]
        rows = [pair.teacher_row for pair in self.pairs]
        theirs = to_device(padded_batch(across.teacher_rows, rows, across.pad, labels=False), device)
        self.said = teacher.ask(theirs, self.config.temperature)
        self.targets = theirs.targets
        self.places = self._paired()

    def chunks(self, log_q: Tensor) -> Tensor:
        """Sum over the chunks of the batch; ``log_q`` [n] are the student's log-probabilities of its targets."""
        if self.method.chunks == "none":
            return log_q.new_zeros(())
        log_p = self.said.at(1.0).log_target(self.targets)
        counts = np.cumsum([0, *(pair.count + 1 for pair in self.pairs)])
        total = int(counts[-1])
        sides = [
            torch.from_numpy(np.concatenate([start + getattr(pair, side) for start, pair in zip(counts, self.pairs, strict=False)]))
            for side in ("ours", "theirs")
        ]
        sums = [chunk_log_likelihoods(logs, chunks.to(logs.device), total) for logs, chunks in zip((log_q, log_p), sides, strict=True)]
        longer = self.method.chunks == "longer"
        kept = [np.append(~pair.single() if longer else np.ones(pair.count, bool), False) for pair in self.pairs]
        chosen = torch.from_numpy(np.concatenate(kept)).to(log_q.device)
        return likelihood_matching(sums[0][chosen], sums[1][chosen], self.options.chunk_temperature).sum()

    def distances(self, logits: Tensor, rows: slice) -> Tensor:
        """[n] at the student's targets ``rows``; 0 where none of the teacher's is paired with it."""
        found = logits.new_zeros(len(logits), dtype=torch.float32)
        theirs = self.places[rows]
        here = np.flatnonzero(theirs >= 0)
        if not len(here):
            return found
        where = torch.from_numpy(here).to(logits.device)
        log_q = log_probabilities(logits[where], self.config.temperature)
        log_p = self.said.places(theirs[here])
        if self.method.places == "ranks":
            distances = sorted_distance(log_q, log_p)
        else:
            sides = (shared_and_rest(one, ids) for one, ids in zip((log_q, log_p), self.shared, strict=True))
            distances = scaled(forward_kl(*sides), self.config.temperature)
        return found.index_add(0, where, distances.float())

    def _paired(self) -> np.ndarray:
        """[n]: the teacher's target that each of the student's is compared with; -1: none."""
        found, start = [], 0
        for pair in self.pairs:
            place = np.full(len(pair.ours), -1)
            if self.method.places == "ranks":
                both = min(len(pair.ours), len(pair.theirs))
                place[:both] = start + np.arange(both)
            elif self.method.places == "shared":
                for ours, theirs in pair.starts():
                    place[ours] = start + theirs
            found.append(place)
            start += len(pair.theirs)
        return np.concatenate(found)
