"""Methods whose teacher cuts text into other tokens than the student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.distillation.across.answered import Answered
from lfm_tasks.distillation.across.losses import chunk_log_likelihoods, likelihood_matching, shared_and_rest, sorted_distance
from lfm_tasks.distillation.across.pairs import Pair
from lfm_tasks.distillation.divergences import NEVER, forward_kl, log_probabilities, scaled
from lfm_tasks.distillation.figures_of_tokens import loss_at_targets
from lfm_tasks.distillation.objective import Setting
from lfm_tasks.distillation.signals import TopK
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
        if setting.across is None and not setting.answered and setting.config.alpha:
            raise ConfigError(f"{setting.config.method} needs the data set in the teacher's tokens as well: give teacher_dataset.")
        if setting.answered and self.places == "shared" and setting.config.temperature != 1:
            raise ConfigError(
                f"temperature={setting.config.temperature:g}: an API's log-probabilities are at the temperature 1, and what it did not "
                f"list is one sum, which has no other. Set temperature=1 for {setting.config.method}, or take alm, which has none."
            )
        return AcrossDistillation(self, setting)


ALM = AcrossMethod(chunks="all", places="none")
ULD = AcrossMethod(chunks="none", places="ranks")
HYBRID = AcrossMethod(chunks="longer", places="shared")


class AcrossDistillation(CrossEntropy):
    """alpha times the distance from the teachers, and 1 - alpha times cross-entropy with the labels; sums over the targets of a pass.

    A row that no teacher knows has the second part alone.
    """

    def __init__(self, method: AcrossMethod, setting: Setting) -> None:
        super().__init__(labels=False)
        self.method, self.setting, self.config = method, setting, setting.config
        self.options: Any = setting.config.method_config()
        self.teachers = [(_Asked, one, setting.across.pairs) for one in setting.sources]
        self.teachers += [(_Told, one, one.pairs) for one in setting.answered]
        self.plain = has_plain_head(setting.student)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        asked = self._ask(batch) if self.config.alpha else []

        def figures(logits: Tensor, rows: slice) -> Tensor:
            """[n, 1 + teachers]: log-probability of the target, and the distance of the distributions there from each teacher's."""
            losses = functional.cross_entropy(logits.float(), batch.targets[rows], reduction="none")
            return torch.stack([-losses, *(one.distances(logits, rows) for one in asked)], -1)

        def loss(found: Tensor) -> Tensor:
            far = [one.chunks(found[:, 0]) + found[:, 1 + place].sum() for place, one in enumerate(asked)]
            return self.config.alpha * sum(far) - (1 - self.config.alpha) * found[:, 0].sum()

        return loss_at_targets(model, batch, figures, loss, plain=self.plain)

    def _ask(self, batch: Batch) -> list[_Compared]:
        """The teachers that know a row have equal shares of it."""
        chosen = [[pairs[example] for example in batch.examples] for _, _, pairs in self.teachers]
        known = np.array([[len(pair.theirs) > 0 for pair in rows] for rows in chosen])
        shares = known / known.sum(0).clip(1)
        return [asked(self, one, batch, *rows) for (asked, one, _), *rows in zip(self.teachers, chosen, shares, strict=True)]


class _Compared(ABC):
    """What one teacher said of the rows of a batch, in its own tokens. ``shares`` [rows] weigh the rows."""

    def __init__(self, objective: AcrossDistillation, pairs: list[Pair], shares: NDArray[np.float64]) -> None:
        self.method, self.config, self.options = objective.method, objective.config, objective.options
        self.pairs, self.shares = pairs, shares
        self.weights = torch.from_numpy(np.repeat(shares, [len(pair.ours) for pair in pairs]).astype(np.float32))
        self.places = self._paired()

    @abstractmethod
    def log_target(self) -> Tensor:
        """[n] log-probabilities of the teacher's own targets."""

    @abstractmethod
    def compared(self, logits: Tensor, theirs: NDArray[np.int64]) -> Tensor:
        """[n] distances of the distributions: the student's of ``logits`` [n, vocabulary], the teacher's at its targets ``theirs``."""

    def chunks(self, log_q: Tensor) -> Tensor:
        """Sum over the chunks of the batch; ``log_q`` [n] are the student's log-probabilities of its targets."""
        if self.method.chunks == "none":
            return log_q.new_zeros(())
        log_p = self.log_target().to(log_q)
        counts = np.cumsum([0, *(pair.count + 1 for pair in self.pairs)])
        total = int(counts[-1])
        sides = [
            torch.from_numpy(np.concatenate([start + getattr(pair, side) for start, pair in zip(counts, self.pairs, strict=False)]))
            for side in ("ours", "theirs")
        ]
        sums = [chunk_log_likelihoods(logs, chunks.to(logs.device), total) for logs, chunks in zip((log_q, log_p), sides, strict=True)]
        longer = self.method.chunks == "longer"
        kept = [np.append(~pair.single() if longer else np.ones(pair.count, bool), False) for pair in self.pairs]
        weights = np.concatenate([share * row for share, row in zip(self.shares, kept, strict=True)])
        chosen = torch.from_numpy(np.flatnonzero(weights)).to(log_q.device)
        distances = likelihood_matching(sums[0][chosen], sums[1][chosen], self.options.chunk_temperature)
        return distances @ torch.from_numpy(weights[weights > 0]).to(distances)

    def distances(self, logits: Tensor, rows: slice) -> Tensor:
        """[n] at the student's targets ``rows``; 0 where none of the teacher's is paired with it."""
        found = logits.new_zeros(len(logits), dtype=torch.float32)
        theirs = self.places[rows]
        here = np.flatnonzero(theirs >= 0)
        if not len(here):
            return found
        where = torch.from_numpy(here).to(logits.device)
        distances = self.compared(logits[where], theirs[here]).float() * self.weights[rows][here].to(logits.device)
        return found.index_add(0, where, distances)

    def _paired(self) -> NDArray[np.int64]:
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


class _Asked(_Compared):
    """A local teacher."""

    def __init__(self, objective: AcrossDistillation, teacher: LogitTeacher, batch: Batch, *compared: Any) -> None:
        super().__init__(objective, *compared)
        across, device = objective.setting.across, batch.targets.device
        self.shared = [one.to(device) for one in across.shared]
        rows = [pair.teacher_row for pair in self.pairs]
        theirs = to_device(padded_batch(across.teacher_rows, rows, across.pad, labels=False), device)
        self.said, self.targets = teacher.ask(theirs, self.config.temperature), theirs.targets

    def log_target(self) -> Tensor:
        return self.said.at(1.0).log_target(self.targets)

    def compared(self, logits: Tensor, theirs: NDArray[np.int64]) -> Tensor:
        log_q, log_p = log_probabilities(logits, self.config.temperature), self.said.places(theirs)
        if self.method.places == "ranks":
            return sorted_distance(log_q, log_p)
        sides = (shared_and_rest(one, ids) for one, ids in zip((log_q, log_p), self.shared, strict=True))
        return scaled(forward_kl(*sides), self.config.temperature)


class _Told(_Compared):
    """An API's answers. Where a chunk begins, the tokens that it listed and the student has are compared one by one, all others as one
    outcome: a lower bound of the KL divergence over the tokens that both have, which are more than were listed."""

    def __init__(self, objective: AcrossDistillation, teacher: Answered, batch: Batch, *compared: Any) -> None:
        self.words = words = [teacher.words[example] for example in batch.examples]
        width = max(one.ids.shape[1] for one in words)
        more = [((0, 0), (0, width - one.ids.shape[1])) for one in words]
        self.ids = np.concatenate([np.pad(one.ids, pad, mode="edge") for one, pad in zip(words, more, strict=True)])
        self.listed = np.concatenate([np.pad(one.listed, pad, constant_values=NEVER) for one, pad in zip(words, more, strict=True)])
        super().__init__(objective, *compared)

    def log_target(self) -> Tensor:
        return torch.from_numpy(np.concatenate([one.log_p for one in self.words]))

    def compared(self, logits: Tensor, theirs: NDArray[np.int64]) -> Tensor:
        ids, listed = (torch.from_numpy(one[theirs]).to(logits.device) for one in (self.ids, self.listed))
        told = TopK(ids.long(), listed)
        return told.distance(log_probabilities(logits), ids, lambda log_q, log_p, _: forward_kl(log_q, log_p))

    def _paired(self) -> NDArray[np.int64]:
        """Without the places at which no token is listed that the student has."""
        places = super()._paired()
        return np.where((places >= 0) & (self.ids[places, 0] >= 0), places, -1) if len(self.ids) else places
