"""Options of the guards of an edit. Light to import. Defaults fit a decoder of 135 M parameters that is edited in early layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError, unknown_name

Level = Literal["off", "warn", "fail"]
CHECKS = (
    "tokens",
    "condition",
    "key_cosine",
    "strength",
    "target",
    "norm",
    "finite",
    "change",
    "drift",
    "spectrum",
    "efficacy",
    "retention",
    "locality",
    "neighbour_answers",
    "perplexity",
    "probe",
)
"""In the order in which they are made: before the solve, of the targets, of the change, of the edited model."""


class GuardOptions(Config):
    """A check's field is its limit; past ``<check>_warn``, where there is one, it warns."""

    off: list[str] = Field([], description=f"Checks that are not made: {', '.join(CHECKS)}.")
    warn: list[str] = Field(["key_cosine", "strength", "neighbour_answers"], description="Checks that only warn.")
    tokens: float = Field(2, ge=0, description="Least tokens behind the key moments for each dimension of a key.")
    tokens_warn: float = Field(10, ge=0, description="Tokens for each dimension below which there is a warning.")
    condition: float = Field(1e8, gt=1, description="Largest condition of C with its ridge, and of a round's system.")
    key_cosine: float = Field(0.7, ge=-1, le=1, description="Least cosine of a fact's key in the bare prompt and in context.")
    strength: float = Field(0.1, ge=0, le=1, description="Least strength k^T C^-1 k of a fact's key, as a share of the round's median.")
    target: float = Field(1.0, gt=0, description="Most nats a token that a target may be unlikely by after the search for its value.")
    target_warn: float = Field(0.3, gt=0, description="Nats a token above which there is a warning.")
    norm: float = Field(
        6.0,
        gt=0,
        description="Longest value, in mean lengths of the first round's values before they were edited; more than 1 + clamp lets every "
        "value of a usual length pass.",
    )
    change: float = Field(0.8, gt=0, description="Largest change of a weight by one round, as a share of the base's norm.")
    change_warn: float = Field(0.2, gt=0, description="Share above which there is a warning.")
    drift: float = Field(1.5, gt=0, description="Largest change of a weight by all rounds, as a share of the base's norm.")
    drift_warn: float = Field(0.8, gt=0, description="Share above which there is a warning.")
    spectrum: float = Field(1.5, gt=1, description="Largest growth of a weight's largest singular value over the base's.")
    efficacy: float = Field(0.9, ge=0, le=1, description="Least share of a round's facts that the model then says by itself.")
    retention: float = Field(0.9, ge=0, le=1, description="Least share of earlier edits that the model still says by itself.")
    retention_sample: int = Field(32, ge=1, le=100_000, description="Earlier edits that are asked for, drawn anew for each round.")
    locality: float = Field(0.5, ge=0, le=1, description="Least share of neighbours whose true answer is still preferred to the new one.")
    locality_warn: float = Field(0.8, ge=0, le=1, description="Share below which there is a warning.")
    locality_sample: int = Field(4, ge=1, le=1000, description="Neighbours that are asked for, of each fact.")
    neighbour_answers: float = Field(
        0.7, ge=0, le=1, description="Least share of the neighbours whose true answer the base says by itself that the model still says."
    )
    perplexity: float = Field(1.05, ge=1, description="Largest perplexity of general text, in perplexities of the base.")
    perplexity_rows: int = Field(32, ge=1, le=100_000, description="Most rows of general text.")
    probe: float = Field(
        0.9, ge=0, le=1, description="Least share of the probe's questions that the base answers and the model still does."
    )

    @field_validator("off", "warn")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in CHECKS:
                raise ConfigError(unknown_name("check", name, CHECKS))
        return names

    def level(self, name: str) -> Level:
        return "off" if name in self.off else "warn" if name in self.warn else "fail"

    def limits(self, name: str) -> tuple[float, float]:
        """(fail, warn): the same where a check has one limit."""
        limit = 1.0 if name == "finite" else getattr(self, name)
        return limit, getattr(self, f"{name}_warn", limit)
