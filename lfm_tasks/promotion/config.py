"""Configs of the steps *gate*, *approve*, *promote*, *novelty* and *rollback*. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError
from lfm_tasks.names import METRIC_PATTERN, MetricName, Name


class GateConfig(Config):
    primary_metric: str = Field(
        "auto",
        pattern=rf"^auto$|{METRIC_PATTERN}",
        description="Metric that the challenger must improve. auto: accuracy of choice or classification, else exact match of "
        "generation, else perplexity.",
        json_schema_extra={"section": "Decision"},
    )
    min_improvement: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Least improvement of the primary metric: 0.01 is one point of accuracy, or one percent of perplexity.",
        json_schema_extra={"section": "Decision"},
    )
    must_not_regress: list[MetricName] = Field(
        ["general/perplexity"],
        max_length=32,
        description="Metrics that may not become worse by more than their margin.",
        json_schema_extra={"section": "Decision"},
    )
    margin: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Non-inferiority margin: 0.05 lets an accuracy fall by five points, or a perplexity grow by five percent.",
        json_schema_extra={"section": "Decision"},
    )
    margins: dict[MetricName, float] = Field(
        {},
        max_length=32,
        description='Margins of single metrics, e.g. {"general/perplexity": 0.02}; the others have the margin above.',
        json_schema_extra={"section": "Decision", "advanced": True},
    )
    ask_when_uncertain: bool = Field(
        True,
        description="Ask a person when the samples do not settle the matter; otherwise reject.",
        json_schema_extra={"section": "Decision"},
    )
    confidence_level: float = Field(
        0.95, ge=0.5, le=0.999, description="Level of the intervals.", json_schema_extra={"section": "Statistics"}
    )
    bootstrap_samples: int = Field(
        2000,
        ge=100,
        le=100_000,
        description="Resamples of the paired bootstrap.",
        json_schema_extra={"section": "Statistics", "unit": "resamples"},
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the resampling.", json_schema_extra={"section": "Statistics"})

    @field_validator("margins")
    @classmethod
    def _are_margins(cls, margins: dict[str, float]) -> dict[str, float]:
        for name, margin in margins.items():
            if not 0 <= margin < 1:
                raise ConfigError(
                    f"The margin of {name} is {margin}; use a number from 0 to below 1, e.g. 0.05 for five points or percent."
                )
        return margins

    def margin_of(self, metric: str) -> float:
        return self.margins.get(metric, self.margin)


ALIAS_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
Approval = Literal["never", "when_asked", "always"]


class PromoteConfig(Config):
    model_name: Name = Field(
        "lfm-model",
        description="Registered model that gets the version.",
        json_schema_extra={"section": "Promotion", "label": "Registered model"},
    )
    alias: str = Field(
        "champion",
        pattern=ALIAS_PATTERN,
        description="Alias that moves to the new version.",
        json_schema_extra={"section": "Promotion"},
    )
    approval: Approval = Field(
        "when_asked",
        description="Whether a person is asked: never, so that what the gate leaves open stays as it is; when the gate asks; or always, "
        "also for what the gate lets through. What the gate rejects is never asked.",
        json_schema_extra={"section": "Promotion", "labels": {"never": "Never", "when_asked": "When the gate asks", "always": "Always"}},
    )
    reason: str = Field(
        "", max_length=500, description="Why; goes into the ledger beside the gate's reasons.", json_schema_extra={"section": "Promotion"}
    )
    dry_run: bool = Field(False, description="Say what would move, and move nothing.", json_schema_extra={"section": "Promotion"})


def needs_answer(approval: Approval, outcome: str) -> bool:
    """Whether a person must be asked about what the gate said."""
    return {"never": False, "when_asked": outcome == "ask", "always": outcome in ("ask", "promote")}[approval]


class ApproveConfig(Config):
    """What a person answered, or that nobody did."""

    chosen: Literal["approve", "reject"] = Field("reject", description="The answer.", json_schema_extra={"section": "Answer"})
    by: str = Field("", max_length=250, description="Who answered; empty after a time-out.", json_schema_extra={"section": "Answer"})
    reason: str = Field("", max_length=2000, description="Why.", json_schema_extra={"section": "Answer"})
    timed_out: bool = Field(
        False, description="Nobody answered in time; this is not a person's no.", json_schema_extra={"section": "Answer"}
    )
    asked: str = Field("", max_length=40, description="When the question was put (ISO 8601).", json_schema_extra={"section": "Answer"})
    answered: str = Field("", max_length=40, description="When it was answered (ISO 8601).", json_schema_extra={"section": "Answer"})
    triggered_by: str = Field(
        "", max_length=250, description="Who started the run that is asked about.", json_schema_extra={"section": "Answer"}
    )

    @model_validator(mode="after")
    def _is_an_answer(self) -> ApproveConfig:
        if self.timed_out and (self.chosen != "reject" or self.by):
            raise ConfigError("timed_out=true means that nobody answered: leave 'by' empty and chosen=reject.")
        if self.chosen == "approve" and not self.by:
            raise ConfigError("An approval has a name to it. Set 'by' to who approves.")
        return self


class NoveltyConfig(Config):
    """Looks for an earlier decision; there is nothing to set."""


class RollbackConfig(Config):
    alias: str = Field("champion", pattern=ALIAS_PATTERN, description="Alias that moves.", json_schema_extra={"section": "Rollback"})
    reason: str = Field("", max_length=500, description="Why; goes into the ledger.", json_schema_extra={"section": "Rollback"})
    dry_run: bool = Field(True, description="Say what would move, and move nothing.", json_schema_extra={"section": "Rollback"})

    @model_validator(mode="after")
    def _says_why(self) -> RollbackConfig:
        if not self.dry_run and not self.reason.strip():
            raise ConfigError("A rollback says why: set the reason. It goes into the ledger.")
        return self
