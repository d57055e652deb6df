"""Rows of a step whose completion the student writes itself, as it is then; nothing is learned through the drawing.

Agarwal et al. 2024, GKD (arXiv 2306.13649): a share of the rows is the student's own. Ko et al. 2024, DistiLLM (arXiv 2402.03898): the
share adapts, and texts are used again. Gu et al. 2024, MiniLLM (arXiv 2306.08543): the teacher leads the drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from lfm_tasks.distillation.config import DistillConfig
from lfm_tasks.distillation.sampling import Draw, Drawing
from lfm_tasks.distillation.sequences.replay import Adaptive, Replay, Text, fresh_share
from lfm_tasks.distillation.teachers import LogitTeacher
from lfm_tasks.models.attention import unsegmented
from lfm_tasks.models.generating import generate
from lfm_tasks.models.ranks import Ranks
from lfm_tasks.seeds import derive_seed
from lfm_tasks.training.split import Split

BATCH_TOKENS = 8192
"""Tokens of a batch that is written at once, padding and answers included."""


@dataclass(frozen=True)
class Step:
    """The rows of an optimiser step, in its order; ``log_sampler`` of a row that the student did not write is None."""

    rows: Split
    written: NDArray[np.bool_]
    log_sampler: Sequence[NDArray[np.float32] | None]


class Writing:
    """The writer of one run. ``share`` of the rows are written by the student."""

    def __init__(self, config: DistillConfig, student: PreTrainedModel, leader: LogitTeacher | None, stop: list[int], steps: int) -> None:
        """``leader``: the teacher that leads the drawing, where ``config.teacher_share`` is more than 0. ``steps``: of the run."""
        self._config, self._student, self._leader, self._stop, self._steps = config, student, leader, stop, steps
        self._drawing = Drawing(config.draw_temperature, config.draw_top_p, config.teacher_share)
        self._adaptive = Adaptive(config.on_policy)
        self._replay = Replay(config.replay_size)

    @property
    def share(self) -> float:
        return self._adaptive.share

    def step(self, split: Split, examples: Sequence[int], step: int) -> Step:
        """The rows ``examples`` of ``split``, those that fall to the student in its own words. The model is in evaluation mode after it."""
        keys = [split.sample_ids[index] for index in examples]
        written = np.array([self._chance("on_policy", step, key) < self.share for key in keys])
        prompts = [self._prompt(split, index) for index in examples]
        anew = [row for row in np.flatnonzero(written) if not self._again(step, keys[row])]
        texts = {row: self._replay.kept[keys[row]] for row in np.flatnonzero(written) if row not in anew}
        for row, text in zip(anew, self._written([prompts[row] for row in anew], [keys[row] for row in anew], step), strict=True):
            texts[row] = text
            self._replay.add(keys[row], text)
        rows = split.take(np.array(examples))
        tokens = [np.concatenate([prompts[row], texts[row].tokens]) if row in texts else ids for row, ids in enumerate(rows.tokens)]
        first = np.array([len(prompts[row]) if row in texts else rows.first[row] for row in range(len(rows))])
        samplers = [texts[row].log_sampler if row in texts else None for row in range(len(rows))]
        return Step(Split(keys, tokens, first, rows.labels), written, samplers)

    def validated(self, loss: float) -> None:
        if self._config.on_policy_schedule == "adaptive":
            self._adaptive.validated(loss)

    def state(self) -> dict[str, Tensor]:
        reference = self._adaptive.reference
        numbers = torch.tensor([self.share, float("nan") if reference is None else reference], dtype=torch.float64)
        return {"adaptive": numbers} | self._replay.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        share, reference = state["adaptive"].tolist()
        self._adaptive = Adaptive(share, None if np.isnan(reference) else reference)
        self._replay.restore(state)

    def _again(self, step: int, key: str) -> bool:
        return key in self._replay.kept and self._chance("fresh", step, key) >= fresh_share(step, self._steps)

    def _chance(self, *names: str | int) -> float:
        return np.random.default_rng(derive_seed(self._config.seed, *names)).random()

    def _prompt(self, split: Split, index: int) -> NDArray[np.int64]:
        """What comes before the targets; of running text its beginning."""
        ids, first = split.tokens[index], int(split.first[index])
        return ids[:first] if first > 1 else ids[: max(1, min(self._config.prompt_tokens, len(ids) // 2))]

    def _written(self, prompts: list[NDArray[np.int64]], keys: list[str], step: int) -> list[Text]:
        """One process writes for all."""
        ranks = Ranks.current()
        return ranks.tell(self._write(prompts, keys, step) if ranks.leads else None)

    def _write(self, prompts: list[NDArray[np.int64]], keys: list[str], step: int) -> list[Text]:
        found: list[Text] = [Text(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(prompts)
        if not prompts:
            return found
        draws: list[tuple[list[int], Draw]] = []

        def processors(batch: list[int]) -> LogitsProcessorList:
            generators = [np.random.default_rng(derive_seed(self._config.seed, "draw", step, keys[row])) for row in batch]
            leader = self._leader.continuing([len(prompts[row]) for row in batch]) if self._leader else None
            draws.append((batch, Draw(self._drawing, generators, leader)))
            return LogitsProcessorList([draws[-1][1]])

        self._student.eval()
        with unsegmented(self._student):
            generate(self._student, prompts, self._config.max_new_tokens, self._stop, BATCH_TOKENS, processors=processors)
        for batch, draw in draws:
            tokens, logs = (torch.stack(each, 1).numpy() for each in (draw.tokens, draw.log_probabilities))
            for place, row in enumerate(batch):
                ends = np.flatnonzero(np.isin(tokens[place], self._stop))
                length = int(ends[0]) + 1 if len(ends) else tokens.shape[1]
                found[row] = Text(tokens[place, :length], logs[place, :length])
        return found
