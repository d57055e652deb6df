"""Sequences that a student draws itself, led by its teacher or not. What a row gets depends on its key alone, not on its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel

from lfm_tasks.distillation.divergences import NEVER, log_probabilities, mixture
from lfm_tasks.models.attention import unsegmented


@dataclass(frozen=True)
class Drawing:
    """How the next token is drawn: from softmax(z / ``temperature``), of the likeliest tokens that have ``top_p`` of it together."""

    temperature: float = 1.0
    top_p: float = 1.0
    teacher_share: float = 0.0
    """With which the teacher's distribution is mixed into the student's."""


@dataclass
class Draw(LogitsProcessor):
    """Makes the likeliest token a draw, by Gumbel's trick; ``tokens`` and ``log_probabilities`` hold what was drawn, a list a step.

    ``generators``: one for each row. ``teacher``: asked along with the student where the drawing has a share for it.
    """

    drawing: Drawing
    generators: Sequence[np.random.Generator]
    teacher: Continuing | None = None
    tokens: list[Tensor] = field(default_factory=list)
    log_probabilities: list[Tensor] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """:param scores: the student's logits, ``[batch, vocabulary]``."""
        log_q = within(log_probabilities(scores.double(), self.drawing.temperature), self.drawing.top_p)
        if self.teacher is not None:
            log_p = log_probabilities(self.teacher(input_ids).double(), self.drawing.temperature)
            log_p = pad(log_p, (0, log_q.shape[-1] - log_p.shape[-1]), value=NEVER)
            log_q = log_p if self.drawing.teacher_share == 1 else mixture(log_p, log_q, self.drawing.teacher_share)
        noise = np.stack([generator.gumbel(size=log_q.shape[-1]) for generator in self.generators])
        noisy = log_q + torch.from_numpy(noise).to(log_q.device)
        drawn = noisy.argmax(-1)
        self.tokens.append(drawn.cpu())
        self.log_probabilities.append(log_q.gather(-1, drawn[:, None])[:, 0].float().cpu())
        return torch.full_like(scores, NEVER).scatter(-1, drawn[:, None], 0.0)


class Continuing:
    """A model's logits of the next token of a batch that grows by a token at each call, padded on the left."""

    def __init__(self, model: PreTrainedModel, lengths: Sequence[int], vocabulary: int) -> None:
        """``lengths``: of the rows' prompts, without padding. ``vocabulary``: columns of the logits that are tokens."""
        self._model, self._lengths, self._vocabulary = model, torch.tensor(lengths), vocabulary
        self._cache = DynamicCache(config=model.config)

    def __call__(self, input_ids: Tensor) -> Tensor:
        seen = self._cache.get_seq_length()
        self._longest = input_ids.shape[-1] if not seen else self._longest
        start = (self._longest - self._lengths).to(input_ids.device)[:, None]
        places = torch.arange(input_ids.shape[-1], device=input_ids.device)
        positions = (places - start).clamp_min(0)[:, seen:]
        inputs = {"input_ids": input_ids[:, seen:], "attention_mask": (places >= start).long(), "position_ids": positions}
        with unsegmented(self._model):
            return self._model(**inputs, past_key_values=self._cache, use_cache=True).logits[:, -1, : self._vocabulary]


def within(log_p: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens that have ``top_p`` together, scaled to a distribution (Holtzman et al. 2020, arXiv 1904.09751)."""
    if top_p >= 1:
        return log_p
    ordered, indices = log_p.sort(dim=-1, descending=True)
    others = ordered.exp().cumsum(-1) - ordered.exp()
    kept = ordered.masked_fill(others >= top_p, -torch.inf)
    return torch.empty_like(log_p).scatter(-1, indices, torch.log_softmax(kept, -1)).clamp_min(NEVER)
