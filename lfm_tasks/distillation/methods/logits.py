"""Methods that compare what student and teacher say: a divergence of :mod:`lfm_tasks.distillation.divergences` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lfm_tasks.distillation import divergences
from lfm_tasks.distillation.divergences import scaled
from lfm_tasks.distillation.objective import LogitDistillation, Setting


@dataclass(frozen=True)
class LogitMethod:
    """``loss`` is ``(log_q, log_p, targets, options, temperature) -> [n]``, its square of the temperature included.

    ``forms`` of a teacher's word that it can be asked about (:mod:`lfm_tasks.distillation.signals`). ``of_logits``: it compares
    logits, so that columns which the tokenizer has no token for are left out. ``whole_steps``: it needs all rows of a step at once.
    """

    loss: Callable[[Tensor, Tensor, Tensor, Any, float], Tensor]
    forms: tuple[str, ...] = ("whole", "top_k")
    of_logits: bool = False
    whole_steps: bool = False

    def objective(self, setting: Setting) -> LogitDistillation:
        return LogitDistillation(self, setting)


def _standardised(log_q: Tensor, log_p: Tensor, temperature: float) -> Tensor:
    both = (divergences.log_probabilities(divergences.standardised(one), temperature) for one in (log_q, log_p))
    return scaled(divergences.forward_kl(*both), temperature)


FORWARD_KL = LogitMethod(lambda q, p, y, o, t: scaled(divergences.forward_kl(q, p), t), forms=("whole", "top_k", "sampled"))
REVERSE_KL = LogitMethod(lambda q, p, y, o, t: scaled(divergences.reverse_kl(q, p), t))
JSD = LogitMethod(lambda q, p, y, o, t: scaled(divergences.jsd(q, p, o.beta, normalised=o.normalised), t))
SKEW_KL = LogitMethod(lambda q, p, y, o, t: scaled(divergences.skew_kl(q, p, o.skew), t))
SKEW_REVERSE_KL = LogitMethod(lambda q, p, y, o, t: scaled(divergences.skew_reverse_kl(q, p, o.skew), t))
TOTAL_VARIATION = LogitMethod(lambda q, p, y, o, t: scaled(divergences.total_variation(q, p), t))
LOGIT_MSE = LogitMethod(lambda q, p, y, o, t: divergences.logit_mse(q, p, t), forms=("whole",), of_logits=True)
STANDARDISED = LogitMethod(lambda q, p, y, o, t: _standardised(q, p, t), forms=("whole",), of_logits=True)
DECOUPLED = LogitMethod(lambda q, p, y, o, t: scaled(divergences.decoupled(q, p, y, o.target_weight, o.other_weight), t), forms=("whole",))
DIST = LogitMethod(lambda q, p, y, o, t: scaled(divergences.dist(q, p, o.inter, o.intra), t), forms=("whole",), whole_steps=True)
