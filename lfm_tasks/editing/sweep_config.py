"""Configs of the steps *sweep_edit_layers* and *choose_edit_layer*. Light to import."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from lfm_tasks.config import Config, MethodChoice, parse_config
from lfm_tasks.editing.config import Option
from lfm_tasks.errors import ConfigError

MAX_CANDIDATES = 1024


class ChooseEditLayerConfig(Config):
    tolerance: float = Field(
        0.02, ge=0, le=1, description="Of the candidates whose score is this near to the best one, that of the earliest layer is chosen."
    )


class SweepEditLayersConfig(MethodChoice, ChooseEditLayerConfig):
    step = "edit"

    method: str = Field("rome", description="Edit method; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, Option] = Field({}, description="Options that stay as they are.", json_schema_extra={"section": "Method"})
    candidate_layers: list[int] = Field(
        [],
        max_length=1000,
        description="Layers of the decoder, from 0, to try; none: the first half. A mapped task gets some of them.",
        json_schema_extra={"section": "Candidates"},
    )
    shards: int = Field(
        1,
        ge=1,
        le=1000,
        description="Parts that the candidate layers are cut into, a step for each.",
        json_schema_extra={"section": "Candidates"},
    )
    shard: int = Field(0, ge=0, description="The part that is tried, from 0.", json_schema_extra={"section": "Candidates"})
    width: int = Field(
        1,
        ge=1,
        le=100,
        description="Layers that a candidate edits together, the last of which it is named for; of methods that edit one layer, 1.",
        json_schema_extra={"section": "Candidates", "unit": "layers"},
    )
    vary: dict[str, list[Option]] = Field(
        {},
        description='Other options to try at each layer, the values of each: {"clamp": [0.75, 1.5, 4]}.',
        json_schema_extra={"section": "Candidates"},
    )
    max_facts: int = Field(
        8,
        ge=1,
        le=10_000,
        description="Facts, the first that are not to be edited, each of which is edited alone.",
        json_schema_extra={"section": "Facts", "unit": "facts"},
    )
    penalty: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Taken off the score for each nat that general text gets less likely.",
        json_schema_extra={"section": "Score"},
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of what is drawn at random.", json_schema_extra={"section": "Facts"})

    @model_validator(mode="after")
    def _candidates_fit(self) -> SweepEditLayersConfig:
        known = type(self.method_config()).model_fields
        if self.width > 1 and "layers" not in known:
            raise ConfigError(f"width={self.width}: {self.method} edits one layer. Set width=1, or take a method that edits several.")
        if not {"layer", "layers"} & known.keys():
            raise ConfigError(f"{self.method} has no option for its layers, so there is nothing to sweep. Take another method.")
        if self.shard >= self.shards:
            raise ConfigError(f"shard {self.shard}: with shards={self.shards} it is 0 to {self.shards - 1}.")
        count = max(1, len(self.candidate_layers)) * len(self.grid())
        if count > MAX_CANDIDATES:
            raise ConfigError(f"{count:,} candidates; at most {MAX_CANDIDATES:,} are allowed. Give fewer layers or values.")
        for values in self.grid():
            parse_config(type(self.method_config()), self.options | values, where=f"options of {self.method}")
        return self

    def grid(self) -> list[dict[str, Any]]:
        """Every choice of values of ``vary``; the last option changes fastest."""
        choices: list[dict[str, Any]] = [{}]
        for name, values in self.vary.items():
            choices = [choice | {name: value} for choice in choices for value in values]
        return choices

    def candidate(self, layer: int, values: dict[str, Any]) -> dict[str, Any]:
        """Options of the method for the layers that end at ``layer``."""
        if "layers" in type(self.method_config()).model_fields:
            return self.options | values | {"layers": list(range(max(0, layer - self.width + 1), layer + 1))}
        return self.options | values | {"layer": layer}
