"""MiniLLM: the reverse KL of whole sequences, over texts that the student writes itself (Gu et al. 2024, arXiv 2306.08543)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.distillation import divergences
from lfm_tasks.distillation.divergences import log_probabilities
from lfm_tasks.distillation.figures_of_tokens import loss_at_targets
from lfm_tasks.distillation.methods.logits import REVERSE_KL
from lfm_tasks.distillation.objective import Answer, LogitDistillation, Setting
from lfm_tasks.distillation.sequences.policy import coefficients
from lfm_tasks.distillation.stored import Recorded
from lfm_tasks.errors import ConfigError
from lfm_tasks.models.ranks import Ranks
from lfm_tasks.training.batches import Batch


class Policy:
    """The method of the card ``minillm``."""

    forms = ("whole",)
    of_logits = whole_steps = False

    def objective(self, setting: Setting) -> SequenceDistillation:
        """Raises :class:`ConfigError` where its gradient would not be that of the divergence."""
        config = setting.config
        wrong = {
            "on_policy": (setting.writing is None, "above 0; 1 learns from own texts alone"),
            "temperature": (config.temperature != 1, "1: the divergence is between the models themselves"),
            "draw_top_p": (config.draw_top_p < 1, "1: texts that are never drawn would be left out of the mean"),
            "teachers": (len(setting.sources) != 1 or isinstance(setting.sources[0], Recorded), "one, open to be asked about new texts"),
        }
        for name, (is_wrong, allowed) in wrong.items():
            if is_wrong:
                found = len(setting.sources) if name == "teachers" else getattr(config, name)
                raise ConfigError(f"minillm with {name}={found}: it must be {allowed}.")
        return SequenceDistillation(self, setting)

    def loss(self, log_q: Tensor, log_p: Tensor, targets: Tensor, options: Any, temperature: float) -> Tensor:
        """Of given texts: the divergence of each token's distributions."""
        return REVERSE_KL.loss(log_q, log_p, targets, options, temperature)


MINILLM = Policy()
DECAY = 0.9


class SequenceDistillation(LogitDistillation):
    """On rows that the student wrote the gradient is alpha times that of the divergence of sequences, on average over its texts; on given
    rows it is that of :class:`LogitDistillation`.

    The baseline at each place is the mean of what was to come there in earlier steps, the newest weighing most.
    """

    def __init__(self, method: Policy, setting: Setting) -> None:
        super().__init__(method, setting)
        length, device = setting.config.max_new_tokens, setting.student.device
        self.baseline = torch.zeros(length, device=device)
        self.seen = torch.zeros(2, length, dtype=torch.float64, device=device)
        """Of this step: sum of what was to come at each place, and how many texts had it."""

    def stepped(self) -> None:
        total, count = Ranks.current().sum(self.seen)
        first = self.baseline.count_nonzero() == 0
        mean = torch.where(count > 0, total / count.clamp_min(1), self.baseline.double())
        self.baseline = (mean if first else DECAY * self.baseline + (1 - DECAY) * mean).float()
        self.seen = torch.zeros_like(self.seen)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"baseline": self.baseline}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        self.baseline = state["baseline"].to(self.baseline.device)

    def _sum_over_places(self, model: nn.Module, batch: Batch, answers: list[Answer]) -> Tensor:
        written = self.written(batch)
        if written is None:
            return super()._sum_over_places(model, batch, answers)

        def figures(logits: Tensor, rows: slice) -> Tensor:
            """[n, 3]: KL, log-probability of the target, and the loss of a given row."""
            log_q, signal = log_probabilities(logits), answers[0][rows]
            kl = signal.distance(log_q, batch.targets[rows], lambda q, p, _: divergences.reverse_kl(q, p))
            losses = functional.cross_entropy(logits.float(), batch.targets[rows], reduction="none")
            return torch.stack([kl, -losses, self.config.alpha * kl + (1 - self.config.alpha) * losses], -1)

        def loss(found: Tensor) -> Tensor:
            return self.config.alpha * self._policy(batch, found[:, 0], found[:, 1]) + found[~written, 2].sum()

        return loss_at_targets(model, batch, figures, loss, plain=self.plain)

    def _policy(self, batch: Batch, kl: Tensor, log_q: Tensor) -> Tensor:
        """Of the rows that the student wrote; ``kl`` and ``log_q`` [n] are at all targets of the batch. Its value is what the texts say of
        the divergence of sequences: the sum of their tokens' KL."""
        step = self.step
        lengths = [len(step.rows.tokens[row]) - int(step.rows.first[row]) for row in batch.examples]
        own = [place for place, row in enumerate(batch.examples) if step.written[row]]
        parts_kl, parts_q = kl.split(lengths), log_q.split(lengths)
        pad = torch.nn.utils.rnn.pad_sequence
        kl_rows, q_rows = (pad([parts[place] for place in own], batch_first=True) for parts in (parts_kl, parts_q))
        sampler = [torch.from_numpy(np.asarray(step.log_sampler[batch.examples[place]])).to(kl.device) for place in own]
        mask = pad([torch.ones(len(one), device=kl.device) for one in sampler], batch_first=True)
        found = coefficients(
            kl_rows,
            q_rows,
            mask,
            pad(sampler, batch_first=True),
            self.baseline[: mask.shape[1]],
            length_normalised=self.options.length_normalised,
            per_token_weights=self.options.weights == "token",
        )
        self.seen[:, : mask.shape[1]] += torch.stack([found.to_come.sum(0), mask.sum(0)]).double()
        return (found.single * kl_rows - found.long * (q_rows - q_rows.detach())).sum()
