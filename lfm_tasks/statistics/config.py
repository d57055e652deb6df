"""Config of the step *statistics* and the options of its methods. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config, MethodChoice
from lfm_tasks.errors import ConfigError


class StatisticsConfig(MethodChoice):
    step = "statistics"

    method: str = Field("gram", description="What is gathered; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, bool | int | float | str | list[int]] = Field(
        {}, description='Options of the method, e.g. {"estimator": "sampled"}.', json_schema_extra={"section": "Method"}
    )
    split: Literal["train", "validation"] = Field(
        "train", description="Rows that are looked at; the test split is for evaluation alone.", json_schema_extra={"section": "Data"}
    )
    max_rows: int = Field(
        256,
        ge=0,
        le=10_000_000,
        description="Most rows, an even choice of the split; 0: all of them.",
        json_schema_extra={"section": "Data"},
    )
    shards: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Parts that these rows are cut into, a step for each.",
        json_schema_extra={"section": "Data"},
    )
    shard: int = Field(0, ge=0, description="The part that is looked at, from 0.", json_schema_extra={"section": "Data"})
    batch_size: int = Field(
        32, ge=1, le=4096, description="Rows that go through the model at once.", json_schema_extra={"section": "Machine", "unit": "rows"}
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of sampled labels.", json_schema_extra={"section": "Data"})

    @model_validator(mode="after")
    def _known_shard(self) -> StatisticsConfig:
        if self.shard >= self.shards:
            raise ConfigError(f"shard {self.shard}: with shards={self.shards} it is 0 to {self.shards - 1}.")
        return self


class AddStatisticsConfig(Config):
    """Sums are added; there is nothing to choose."""


class FisherInformationConfig(Config):
    estimator: Literal["true", "sampled", "empirical", "sum_batch"] = Field(
        "true",
        description="Squared gradients of log p of: every class by its probability (classification); labels drawn from the model; the "
        "rows' own labels; or the square of one gradient for a whole batch, as in MergeLM and FusionBench.",
    )


class KeyMomentsConfig(Config):
    layers: list[int] = Field(
        [], max_length=1000, description="Layers of the decoder, from 0, whose keys are gathered in one pass; none: the first half."
    )
    drop_first: bool = Field(
        True, description="Leave out the first token of each row: attention sinks there, and its keys are unlike all others."
    )


class GramConfig(Config):
    """Gram matrices have no options."""
