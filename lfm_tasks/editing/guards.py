"""Guards of an edit: typed checks of what was measured. Pure: :mod:`lfm_tasks.editing.measuring` measures.

G1 before the solve: moments, condition, keys. G2 the targets. G3 the change: its norm, the weight's spectrum. G4 the edited model: is the
fact there, are earlier ones still there, are neighbours, general text and other tasks as before. What follows from a failed check (G5)
is in :mod:`lfm_tasks.editing.rounds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lfm_tasks.editing.guards_config import CHECKS, GuardOptions

Outcome = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Rule:
    bound: Literal["most", "least"]
    """What the limit is."""
    advice: str


RULES: dict[str, Rule] = {
    "tokens": Rule("least", "Gather key moments from more rows."),
    "condition": Rule(
        "most", "Gather key moments from more text, raise ridge_share, or edit facts with like subjects in rounds of their own."
    ),
    "key_cosine": Rule("least", "Leave two_keys on, or word the prompt so that the subject is not its first word."),
    "strength": Rule("least", "The key is an unusual one (a subject that opens the text?): word the prompt in another way."),
    "target": Rule(
        "most", "The target cannot be reached from this layer: choose another one, raise clamp or steps, or check the fact's spelling."
    ),
    "norm": Rule("most", "Lower clamp, or set anchor."),
    "finite": Rule("least", "Set a smaller learning_rate or a larger ridge_share."),
    "change": Rule("most", "Lower clamp, raise ridge_share, edit over more layers, or fewer facts a round."),
    "drift": Rule("most", "The model has taken many edits: edit other layers, or train the facts into it instead."),
    "spectrum": Rule("most", "Lower clamp, raise ridge_share, or edit over more layers."),
    "efficacy": Rule("least", "Raise clamp or steps, lower ridge_share, or choose a layer by the step sweep_edit_layers."),
    "retention": Rule("least", "Leave remember on, take a method that keeps earlier keys (memit, alphaedit), or larger rounds."),
    "locality": Rule("least", "Choose an earlier layer, lower clamp, or take alphaedit."),
    "neighbour_answers": Rule("least", "Choose an earlier layer, lower clamp, or take alphaedit: neighbours are near to being lost."),
    "perplexity": Rule("most", "Lower clamp, raise ridge_share, or edit over more layers."),
    "probe": Rule("least", "Lower clamp, raise ridge_share, or choose another layer."),
}


@dataclass(frozen=True)
class Check:
    name: str
    outcome: Outcome
    value: float
    limit: float
    """That was missed; of a passed check the one that fails it."""
    advice: str = ""
    facts: tuple[str, ...] = ()
    """Ids of those that miss the limit by themselves, whatever is in the round beside them."""

    def __str__(self) -> str:
        sign = {"most": "at most", "least": "at least"}[RULES[self.name].bound]
        return f"{self.name} {self.value:.4g}, {sign} {self.limit:.4g} is allowed. {self.advice}"

    def to_json(self) -> dict[str, Any]:
        """Numbers that JSON has: an infinite value becomes the largest one."""
        value = self.value if math.isfinite(self.value) else math.copysign(1.7e308, -1.0 if self.value == -math.inf else 1.0)
        return asdict(self) | {"value": value, "facts": list(self.facts)}


def judge(name: str, value: float, options: GuardOptions, facts: Sequence[str] = ()) -> Check:
    """NaN misses every limit."""
    fail, warn = options.limits(name)
    rule, level = RULES[name], options.level(name)

    def missed(limit: float) -> bool:
        return not (value <= limit if rule.bound == "most" else value >= limit)

    if missed(fail) and level == "fail":
        return Check(name, "fail", value, fail, rule.advice, tuple(facts))
    if missed(fail) or missed(warn):
        return Check(name, "warn", value, warn, rule.advice, tuple(facts))
    return Check(name, "pass", value, fail)


def judge_all(measured: Mapping[str, float], options: GuardOptions) -> list[Check]:
    """Those of ``measured`` that are not off."""
    return [judge(name, measured[name], options) for name in CHECKS if name in measured and options.level(name) != "off"]


def judge_facts(name: str, values: Mapping[str, float], options: GuardOptions) -> list[Check]:
    """One check of the worst of the facts' ``values``; it names all that miss the limit. Nothing of no values."""
    if not values or options.level(name) == "off":
        return []
    limit, least = options.limits(name)[0], RULES[name].bound == "least"
    missing = [fact for fact, value in values.items() if not (value >= limit if least else value <= limit)]
    nan = [value for value in values.values() if math.isnan(value)]
    return [judge(name, nan[0] if nan else (min if least else max)(values.values()), options, missing)]


def failed(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.outcome == "fail"]


def relative_norm(factors: Sequence[tuple[Tensor, Tensor]], base: Tensor) -> float:
    """|sum of left @ right^T| / |base| (Frobenius), float64; the sum is never formed."""
    left, right = (torch.cat([pair[place].double() for pair in factors], 1) for place in (0, 1))
    square = ((left.T @ left) * (right.T @ right)).sum().clamp(min=0)
    return float(square.sqrt() / base.double().norm())


def largest_singular_value(matrix: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> float:
    """By power iteration from the row sums' direction and a fixed draw, to a relative ``tolerance`` of the value."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=generator, dtype=torch.float64).to(matrix.dtype)
    value = 0.0
    for _ in range(iterations):
        image = matrix @ (vector / vector.norm())
        before, value = value, float(image.norm())
        if abs(value - before) <= tolerance * value or not math.isfinite(value):
            break
        vector = matrix.T @ image
    return value
