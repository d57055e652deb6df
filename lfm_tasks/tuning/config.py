"""Config of the step *tune*. Light to import."""

from __future__ import annotations

from pydantic import Field, model_validator

from lfm_tasks.errors import ConfigError
from lfm_tasks.training.config import TrainingConfig, section


class TuneConfig(TrainingConfig):
    step = "tune"

    method: str = Field("lora", description="Tuning method; `lfm methods` lists them.", json_schema_extra=section("Method"))
    save_merged: bool = Field(
        True, description="Also save the model with the update merged into its weights.", json_schema_extra=section("Method")
    )

    keep_last: int = Field(
        0,
        ge=0,
        le=1000,
        description="Models along the run that are outputs too, the newest that of its last step; 0: none.",
        json_schema_extra=section("Length", unit="models"),
    )
    keep_every: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Steps between two of those models; 0 spreads them evenly over the run.",
        json_schema_extra=section("Length", unit="steps"),
    )

    @model_validator(mode="after")
    def _keeps_what_there_is(self) -> TuneConfig:
        if self.keep_every and not self.keep_last:
            raise ConfigError(f"keep_every={self.keep_every} says how far apart the kept models are, and none is kept. Set keep_last.")
        if self.keep_last and self.early_stopping_patience:
            raise ConfigError(
                f"keep_last={self.keep_last} and early_stopping_patience={self.early_stopping_patience} exclude one another: which steps "
                "are kept follows from the length of the run. Set one of them to 0."
            )
        return self
