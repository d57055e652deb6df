"""What a search has scored: the models themselves, the method's defaults, the candidates. Kept after each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lfm_tasks.config import canonical_json
from lfm_tasks.reuse.scoring import Score
from lfm_tasks.reuse.search_config import SearchMergeConfig
from lfm_tasks.step import StepContext

KEPT = "trials.json"


@dataclass(frozen=True)
class Trial:
    kind: Literal["model", "default", "candidate"]
    name: str
    """Of the model."""
    options: dict[str, Any]
    """What a candidate sets."""
    scores: tuple[Score, ...]
    """One for each task."""

    @property
    def label(self) -> str:
        return self.name or ", ".join(f"{name} {value}" for name, value in self.options.items()) or "default"

    def rank(self, config: SearchMergeConfig) -> tuple[float, float]:
        """More is better: the score, then by the other measure."""
        other = "log_likelihood" if config.score == "accuracy" else "accuracy"
        return self._over(config, [one.by(config.score) for one in self.scores]), self._over(config, [one.by(other) for one in self.scores])

    def to_json(self, config: SearchMergeConfig) -> dict[str, Any]:
        score, tie_break = self.rank(config)
        return {**asdict(self), "score": score, "tie_break": tie_break}

    @staticmethod
    def _over(config: SearchMergeConfig, values: list[float]) -> float:
        return min(values) if config.over == "worst" else sum(values) / len(values)


class Trials:
    """Every trial so far, in order; those of a stopped attempt of the same job are not made again."""

    def __init__(self, config: SearchMergeConfig, context: StepContext, total: int) -> None:
        self.config, self.context, self.total, self.done = config, context, total, []
        latest = context.checkpoints.latest()
        self.before = json.loads((latest / KEPT).read_text()) if latest else []
        if self.before:
            context.log(f"Resumed: {len(self.before)} trials were made before.")

    def of(self, kind: Literal["model", "default", "candidate"]) -> list[Trial]:
        return [trial for trial in self.done if trial.kind == kind]

    def add(self, kind: Literal["model", "default", "candidate"], name: str, options: dict, score: Callable[[], Iterable[Score]]) -> Trial:
        """Raises :class:`~lfm_tasks.errors.AttemptKilled` when a stop was asked for, once the trial is kept."""
        place = len(self.done)
        known = self.before[place] if place < len(self.before) else None
        if known and known["options"] == options:
            self.done.append(Trial(kind, name, options, tuple(Score(**one) for one in known["scores"])))
            return self.done[-1]
        self.before = []
        trial = Trial(kind, name, options, tuple(score()))
        self.done.append(trial)
        self.context.checkpoints.save(len(self.done), self._keep)
        value, tried = trial.rank(self.config)[0], self.of("candidate")
        best = {"best": max(one.rank(self.config) for one in tried)[0]} if tried else {}
        self.context.log(f"{trial.label}: {self.config.score} {value:.4f} ({self.config.over}).")
        self.context.report(len(self.done), max(self.total, len(self.done)), {"score": value, **best})
        return trial

    def _keep(self, directory: Path) -> None:
        (directory / KEPT).write_bytes(canonical_json([asdict(trial) for trial in self.done]))
